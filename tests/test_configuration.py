"""Every point of the hardening checklist that needs nobody to be asked: one that fails, and one that passes."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware

from fastapi_tollbooth import FreeTier, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.cors import allow_payers
from fastapi_tollbooth.doctor import Finding, Level, Patient, configuration
from fastapi_tollbooth.testing import FakeTollbooth

STRONG = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
SAFE: dict[str, Any] = {
    "environment": "production",
    "secret": STRONG,
    "lightning": {"backend": "lnbits", "url": "https://lnbits.example.com", "api_key": "0" * 32},
}

MakePatient = Callable[..., Patient]


@pytest.fixture
def patient(tmp_path: Path) -> MakePatient:
    """Make a patient: an application in production with one route at this price, and what is told of its server."""

    def make(gate: Any = None, *, options: dict[str, Any] | None = None, **told: Any) -> Patient:
        names = {name: told.pop(name) for name in list(told) if name in TollboothSettings.model_fields}
        settings = TollboothSettings(_env_file=None, **{**SAFE, "database_url": f"sqlite:///{tmp_path}/t.db", **names})
        app, booth = FastAPI(), Tollbooth(settings, **(options or {}))
        booth.install(app)

        @app.post("/x", dependencies=[Depends(gate or priced("$0.01"))])
        async def x(body: dict[str, Any]) -> str:
            return "ok"

        return Patient(app, booth, **{"folder": tmp_path, **told})

    return make


def bad(found: Any) -> list[Finding]:
    return [finding for finding in found if finding.level is not Level.OK]


def assert_bad(found: Any, text: str, level: Level = Level.PROBLEM) -> None:
    wrong = bad(found)
    assert [finding.level for finding in wrong] == [level], wrong
    assert text in wrong[0].detail
    assert wrong[0].mend


def assert_good(found: Any) -> None:
    findings = list(found)
    assert findings
    assert bad(findings) == []


def test_development_is_not_production(patient: MakePatient, tmp_path: Path) -> None:
    assert_bad(configuration.environment(patient(environment="development")), "development", Level.WARNING)
    assert_good(configuration.environment(patient()))


def test_shadow_mode_is_loud(patient: MakePatient) -> None:
    assert_bad(configuration.mode(patient(mode="observe")), "nothing is charged")
    assert_good(configuration.mode(patient()))


def test_the_developer_s_node_secret_and_ledger_are_found(patient: MakePatient) -> None:
    laptop = patient(environment="development", secret="s" * 32, lightning={})
    assert [finding.detail.partition(":")[0] for finding in bad(configuration.hazards(laptop))] == [
        "TOLLBOOTH_SECRET",
        "rails",
    ]
    fake = FakeTollbooth()
    fake.install(app := FastAPI())
    details = " ".join(finding.detail for finding in bad(configuration.hazards(Patient(app, fake))))
    assert "in memory" in details
    assert "'fake' are not real" in details
    assert_good(configuration.hazards(patient()))


def test_plain_http_is_found(patient: MakePatient) -> None:
    lightning = {"backend": "lnbits", "url": "http://lnbits.example.com", "api_key": "0" * 32}
    laptop = patient(environment="development", lightning=lightning)
    assert_bad(configuration.hazards(laptop), "not encrypted", Level.WARNING)


def test_misspelt_variables_are_found(patient: MakePatient, tmp_path: Path) -> None:
    misspelt = Patient(*_parts(patient()), {"TOLLBOOTH_TOPUP": "1"}, tmp_path)
    assert_bad(configuration.spelling(misspelt), "did you mean TOLLBOOTH_TOP_UP?")
    strange = Patient(*_parts(patient()), {"TOLLBOOTH_STRANGE_THING": "1"}, tmp_path)
    assert_bad(configuration.spelling(strange), "no setting", Level.WARNING)
    (tmp_path / ".env").write_text("TOLLBOOTH_SERVCE=x\n")
    assert_bad(configuration.spelling(patient()), "TOLLBOOTH_SERVICE")
    (tmp_path / ".env").write_text("TOLLBOOTH_SERVICE=x\n")
    assert_good(configuration.spelling(patient()))


def test_secrets_are_not_written_in_the_code(patient: MakePatient, tmp_path: Path) -> None:
    made = patient()
    found = bad(configuration.secrets(made))
    assert [finding.level for finding in found] == [Level.WARNING] * 2
    assert STRONG not in str(found)
    environment = {"TOLLBOOTH_SECRET": STRONG}
    assert_bad(configuration.secrets(Patient(*_parts(made), environment, tmp_path)), "LIGHTNING", Level.WARNING)
    (tmp_path / ".env").write_text("TOLLBOOTH_LIGHTNING__API_KEY=key\n")
    assert_good(configuration.secrets(Patient(*_parts(made), environment, tmp_path)))


def test_the_env_file_is_private_and_ignored_by_git(patient: MakePatient, tmp_path: Path) -> None:
    assert_good(configuration.env_file(patient()))
    path = tmp_path / ".env"
    path.write_text("TOLLBOOTH_SERVICE=x\n")
    path.chmod(0o644)
    assert_bad(configuration.env_file(patient()), "other users")
    path.chmod(0o600)
    assert_good(configuration.env_file(patient()))
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert_bad(configuration.env_file(patient()), "git")
    for line in (".env", "/.env", "*.env", ".env*"):
        (tmp_path / ".gitignore").write_text(f"# secrets\n{line}\n")
        assert_good(configuration.env_file(patient()))


@pytest.mark.parametrize(
    ("host", "level"),
    [
        ("0.0.0.0", Level.PROBLEM),
        ("::", Level.PROBLEM),
        ("203.0.113.1", Level.PROBLEM),
        (None, Level.WARNING),
        ("127.0.0.1", Level.OK),
        ("::1", Level.OK),
        ("localhost", Level.OK),
        ("/run/shop.sock", Level.OK),
    ],
)
def test_the_server_listens_where_only_the_proxy_is(patient: MakePatient, host: str | None, level: Level) -> None:
    [finding] = configuration.bind(patient(host=host))
    assert finding.level is level
    if host is not None:
        [finding] = configuration.bind(Patient(*_parts(patient()), {"UVICORN_HOST": host}))
        assert finding.level is level


@pytest.mark.parametrize(
    ("allowed", "trusted", "level", "text"),
    [
        ("*", "", Level.PROBLEM, "FORWARDED_ALLOW_IPS"),
        ("127.0.0.1,0.0.0.0/0", "", Level.PROBLEM, "FORWARDED_ALLOW_IPS"),
        ("", "0.0.0.0/0", Level.PROBLEM, "TOLLBOOTH_TRUSTED_PROXIES"),
        ("", "::/0", Level.PROBLEM, "TOLLBOOTH_TRUSTED_PROXIES"),
        ("127.0.0.1", "1", Level.PROBLEM, "both"),
        ("", "", Level.WARNING, "no proxy"),
        ("127.0.0.1", "", Level.OK, ""),
        ("", "10.0.0.0/8, fd00::/16", Level.OK, ""),
        ("", "1", Level.OK, ""),
    ],
)
def test_the_proxy_is_trusted_and_nobody_else(
    patient: MakePatient, allowed: str, trusted: str, level: Level, text: str
) -> None:
    made = patient(trusted_proxies=trusted)
    [finding] = configuration.proxies(Patient(made.app, made.tollbooth, {"FORWARDED_ALLOW_IPS": allowed}))
    assert finding.level is level
    assert text in finding.detail


def test_free_routes_have_a_limit(patient: MakePatient) -> None:
    unlimited: dict[str, Any] = {"free_rate_limit": "off"}
    assert_bad(configuration.limits(patient(priced("$0"), **unlimited)), "POST /x is free and has no rate limit")
    assert_bad(configuration.limits(patient(free_tier=3, **unlimited)), "POST /x is free")
    tier = priced("$0.01", free_tier=FreeTier(requests=1))
    assert_bad(configuration.limits(patient(tier, **unlimited)), "POST /x is free")
    assert_good(configuration.limits(patient(priced("$0", rate_limit="1/second"), **unlimited)))
    assert_good(configuration.limits(patient(priced("$0.01", free_tier=False), free_tier=3, **unlimited)))
    assert_good(configuration.limits(patient(priced("$0"))))


def test_offers_have_a_limit_that_workers_share(patient: MakePatient) -> None:
    assert_bad(configuration.limits(patient(unpaid_rate_limit="off")), "any number of offers")
    assert_bad(configuration.limits(patient(workers=4)), "4 workers", Level.WARNING)
    assert_good(configuration.limits(patient(workers=4, rate_limit_storage="redis://127.0.0.1:1/0")))
    assert_good(configuration.limits(patient()))


MATCH = [{"where": {"body.model": "dear"}, "price": "$0.10"}, {"where": {"body.model": "cheap"}, "price": "$0.01"}]


def test_rules_and_models_have_a_fallback_that_is_not_lower_than_the_dearest(patient: MakePatient) -> None:
    assert_bad(configuration.fallbacks(patient(priced(match=MATCH), default_price="$1")), "no price of its own")
    assert_bad(configuration.fallbacks(patient(priced(match=MATCH, fallback="$0.05"))), "dearest rule $0.10")
    assert_bad(configuration.fallbacks(patient(priced(models={"m": "$0.10"}, fallback="$0.05"))), "$0.05")
    assert_good(configuration.fallbacks(patient(priced(match=MATCH, fallback="$0.10"))))
    assert_good(configuration.fallbacks(patient(priced(models={"m": "$0.10"}, fallback="$0.20"))))


def test_functions_are_capped(patient: MakePatient) -> None:
    def price() -> str:
        return "$0.01"

    assert_bad(configuration.caps(patient(priced(price))), "may ask any price", Level.WARNING)
    assert_good(configuration.caps(patient(priced(price, max_price="$1"))))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"allow_origins": ["*"]}, "every origin"),
        ({"allow_origin_regex": ".*"}, "every origin"),
        ({"expose_headers": []}, "hide WWW-Authenticate"),
        ({"allow_headers": ["Content-Type"]}, "may not send Authorization"),
    ],
)
def test_browsers_of_the_owner_s_frontends_can_pay_and_no_others(
    patient: MakePatient, options: dict[str, Any], text: str
) -> None:
    good: dict[str, Any] = {
        "allow_origins": ["https://shop.example"],
        "allow_headers": ["Authorization"],
        "expose_headers": ["WWW-Authenticate"],
    }
    made = patient()
    made.app.add_middleware(CORSMiddleware, **{**good, **options})
    assert_bad(configuration.cors(made), text)
    made = patient()
    made.app.add_middleware(CORSMiddleware, **good)
    assert_good(configuration.cors(made))
    helped = patient()
    allow_payers(helped.app, ["https://shop.example"])
    assert_good(configuration.cors(helped))
    assert_good(configuration.cors(patient()))


def test_a_service_as_the_documentation_has_it_passes(patient: MakePatient) -> None:
    made = patient(host="127.0.0.1")
    environment = {"FORWARDED_ALLOW_IPS": "127.0.0.1", "TOLLBOOTH_SECRET": "", "TOLLBOOTH_LIGHTNING__API_KEY": ""}
    well = Patient(made.app, made.tollbooth, environment, made.folder, "127.0.0.1")
    assert_good(configuration.look(well))
    assert len(configuration.CHECKS) == len({check.__name__ for check in configuration.CHECKS})


def _parts(made: Patient) -> tuple[FastAPI, Tollbooth]:
    return made.app, made.tollbooth
