"""The demo as a newcomer runs it, and what a production deployment of the example is made of."""

import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values

from fastapi_tollbooth import TollboothSettings
from fastapi_tollbooth.hardening import setting_hazards
from fastapi_tollbooth.variables import unknown

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "example_app"


@pytest.mark.parametrize("ambient", [{}, {"TOLLBOOTH_TOP_UP": "1", "TOLLBOOTH_ENVIRONMENT": "production"}])
def test_the_demo_tells_its_story(ambient: dict[str, str], tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "example_app.demo"],
        env={**os.environ, **ambient, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    lines = [line.strip() for line in finished.stdout.splitlines()]
    answers = [line.split("->")[1].split()[0] for line in lines if "->" in line]
    assert answers == ["200", "200", "402", "200", "200", "200", "404", "200", "402", "200", "200"]
    assert any(line.endswith("free today: $0.015") for line in lines)
    assert any(line.endswith("credit left: $0.09") for line in lines)
    assert any("-$0.003" in line and line.endswith("/chat/stream") for line in lines), "fifteen tokens were charged"
    assert any(line.endswith("0 open tolls: every balance is right") for line in lines)


def test_variables_win_over_the_example_s_own_settings(tmp_path: Path) -> None:
    code = "from example_app.main import tollbooth; print(tollbooth.settings.top_up, tollbooth.settings.service)"

    def top_up(**variables: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        return subprocess.check_output([sys.executable, "-c", code], env=environment, cwd=tmp_path, text=True).strip()

    assert top_up() == "10 weather"
    assert top_up(TOLLBOOTH_TOP_UP="3") == "3 weather"


def test_stablecoins_are_taken_as_soon_as_there_is_a_wallet(tmp_path: Path) -> None:
    code = (
        "from fastapi.testclient import TestClient; from example_app.main import app; "
        "offer = TestClient(app).get('/weather/Lisbon'); "
        "print(offer.status_code, 'macaroon' in offer.json(), offer.headers.get('payment-required') is not None)"
    )

    def offered(**variables: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        return subprocess.check_output([sys.executable, "-c", code], env=environment, cwd=tmp_path, text=True).strip()

    assert offered() == "402 True False"
    wallet = {"TOLLBOOTH_X402__PAY_TO": "0x" + "12" * 20, "TOLLBOOTH_X402__NETWORKS": '["base-sepolia"]'}
    assert offered(**wallet) == "402 True True"


# ── in production ─────────────────────────────────────────────────────────────────────────────────────────────────────


def filled_in(text: str) -> dict[str, str | None]:
    """The variables of ``.env.example``, those of the second rail too, as an owner would fill them in."""
    secret = "5f1c0a7be39d42868b1de7f9c04a6e35720bd8f1"
    text = re.sub("^#(?=TOLLBOOTH_)", "", text, flags=re.MULTILINE)
    return dotenv_values(stream=StringIO(text.replace("0xREPLACE-ME", "0x" + "12" * 20).replace("REPLACE-ME", secret)))


def test_the_example_of_variables_is_safe_once_it_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    found = filled_in((EXAMPLE / ".env.example").read_text())
    assert not unknown(found)
    for name, value in found.items():
        monkeypatch.setenv(name, value or "")
    settings = TollboothSettings(_env_file=None)
    assert settings.environment == "production"
    assert settings.x402.networks == ["base"]
    assert not setting_hazards(settings)
    monkeypatch.setenv("TOLLBOOTH_SECRET", "REPLACE-ME")
    assert setting_hazards(TollboothSettings(_env_file=None)), "what was not filled in is not safe"


def test_the_services_of_the_deployment_know_each_other() -> None:
    compose = yaml.safe_load((EXAMPLE / "docker-compose.yml").read_text())
    variables = (EXAMPLE / ".env.example").read_text()
    assert {"nginx", "shop", "migrate", "db", "limits"} == set(compose["services"])
    assert "@db/tollbooth" in variables
    assert "redis://limits:" in variables
    assert "proxy_pass http://shop:8000;" in (EXAMPLE / "nginx.conf").read_text()
    subnet = compose["networks"]["front"]["ipam"]["config"][0]["subnet"]
    assert compose["services"]["shop"]["environment"] == {"FORWARDED_ALLOW_IPS": subnet}
    in_front = [name for name, each in compose["services"].items() if "front" in each["networks"]]
    assert in_front == ["nginx", "shop"], "whatever else is in this network could name any client it likes"
    kept_out = (EXAMPLE / "Dockerfile.dockerignore").read_text().splitlines()
    assert {"*", "example_app/.env", "example_app/certs"} <= set(kept_out), "or the image has the secrets in it"
