import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fastapi_tollbooth.cli import main
from fastapi_tollbooth.ledger.schema import HEAD

APP = """
from fastapi import Depends, FastAPI
from fastapi_tollbooth import Tollbooth, TollboothSettings, priced
app, bare = FastAPI(), FastAPI()
Tollbooth(TollboothSettings(_env_file=None, default_price="$0.5")).install(app)

@app.get("/weather/{city}", dependencies=[Depends(priced("$0.01"))])
async def weather(city: str): ...

@app.post("/ai", dependencies=[Depends(priced(match=[{"where": {"body.model": "o*"}, "price": "$0.07"}]))])
async def ai(): ...
"""


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cli_shop.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    monkeypatch.delitem(__import__("sys").modules, "cli_shop", raising=False)


def test_routes_are_listed_with_their_prices_and_warnings() -> None:
    code, output = call("routes", "cli_shop:app")
    assert code == 0
    assert "GET      /weather/{city}\n         static: $0.01" in output
    assert "match: $0.07 when body.model is o*" in output
    assert "warning: match without a fallback on the route itself" in output
    assert "2 priced routes" in output


def test_routes_as_json() -> None:
    _, output = call("routes", "cli_shop:app", "--json")
    static, match = json.loads(output)
    assert (static["kind"], static["lowest"], static["highest"], static["warnings"]) == ("static", "$0.01", "$0.01", [])
    assert (match["methods"], match["path"], match["kind"]) == ("POST", "/ai", "match")
    assert (match["lowest"], match["highest"], match["fallback"]) == ("$0.07", "$0.50", None)


@pytest.mark.parametrize("name", ["cli_shop:bare", "cli_shop:nothing", "nowhere:app", "nonsense"])
def test_what_is_no_application_is_refused_in_words(name: str) -> None:
    code, output = call("routes", name)
    assert code == 2
    assert "Traceback" not in output


def test_models_state_their_date() -> None:
    code, output = call("models")
    assert code == 0
    assert "Prices as of 20" in output
    assert "gpt-4o-mini" in output
    table = json.loads(call("models", "--json")[1])
    assert table["as_of"] in output
    assert table["prices"]["gpt-4o"].startswith("$")


SAFE_APP = """
from fastapi import Depends, FastAPI
from fastapi_tollbooth import Tollbooth, priced
app = FastAPI()
Tollbooth().install(app)

@app.get("/weather", dependencies=[Depends(priced("$0.01"))])
async def weather(): ...
"""


def test_doctor_finds_what_is_wrong_and_passes_what_the_documentation_recommends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = call("doctor", "cli_shop:app")
    assert code == 1
    assert "PROBLEM  fallbacks" in output
    (tmp_path / "safe_shop.py").write_text(SAFE_APP)
    safe = {
        "ENVIRONMENT": "production",
        "SECRET": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "DATABASE_URL": f"sqlite:///{tmp_path}/safe.db",
        "LIGHTNING__BACKEND": "lnbits",
        "LIGHTNING__URL": "https://lnbits.example.com",
        "LIGHTNING__API_KEY": "0" * 32,
    }
    for name, value in safe.items():
        monkeypatch.setenv(f"TOLLBOOTH_{name}", value)
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "127.0.0.1")
    code, output = call("doctor", "safe_shop:app", "--host", "127.0.0.1", "--offline", "--json")
    report = json.loads(output)
    assert (code, report["problems"]) == (0, 0)
    assert {finding["level"] for finding in report["findings"]} == {"ok"}
    assert {"bind", "cors", "limits", "hazards"} <= {finding["check"] for finding in report["findings"]}


@pytest.mark.parametrize("command", ["routes", "doctor", "reconcile"])
def test_an_application_that_does_not_start_is_told_in_words(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLBOOTH_ENVIRONMENT", "production")
    code, output = call(command, "cli_shop:app")
    assert code == (1 if command == "doctor" else 2)
    assert "Traceback" not in output
    assert 'python -c "import secrets; print(secrets.token_hex(32))"' in output, "in one piece, to be copied"
    assert "/docs/configuration-errors.md#unsafe_in_production" in output


def test_settings_prints_the_table() -> None:
    code, output = call("settings")
    assert code == 0
    assert "| `TOLLBOOTH_SECRET` |" in output


def test_no_ledger_is_made_by_looking_for_one(tmp_path: Path) -> None:
    for command in (("reconcile",), ("db", "current")):
        code, output = call(*command)
        assert code == 2
        assert "no ledger there yet" in output
    assert [path.name for path in tmp_path.iterdir()] == ["cli_shop.py"]


def test_revisions_are_told_to_programs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    for before in (None, HEAD):
        assert json.loads(call("db", "upgrade", "--json", "--database-url", url)[1]) == {
            "before": before,
            "revision": HEAD,
        }
    assert json.loads(call("db", "current", "--json", "--database-url", url)[1]) == {"revision": HEAD, "needed": HEAD}
    code, output = call("db", "upgrade", "--database-url", "sqlite:////nowhere/ledger.db")
    assert code == 2
    assert "/nowhere/ledger.db.lock: No such file or directory" in " ".join(output.split())
