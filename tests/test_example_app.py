"""The example application, tested as its owner would, and the demo as a newcomer runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth.testing import FakeTollbooth, PayingClient

ROOT = Path(__file__).parent.parent


@pytest.fixture
def app() -> FastAPI:
    from example_app.main import app

    return app


def test_prices(paying_client: PayingClient, tollbooth: FakeTollbooth) -> None:
    assert paying_client.get("/health").json() == {"status": "ok"}
    assert paying_client.get("/weather/Lisbon").json()["city"] == "Lisbon"
    assert "balance" in paying_client.get("/joke").json()
    assert len(paying_client.post("/trip", json={"cities": ["Lisbon", "Rome"]}).json()) == 2
    assert paying_client.get("/story").text.startswith("It was a bright cold day")
    tollbooth.assert_charged("$0.01", "21 sat", "$0.03", "$0.02")


def test_only_the_health_check_is_free(unpaid_client: TestClient, tollbooth: FakeTollbooth) -> None:
    paths = ["/health", "/weather/Lisbon", "/joke", "/story"]
    assert [unpaid_client.get(path).status_code for path in paths] == [200, 402, 402, 402]
    assert unpaid_client.post("/trip", json={"cities": []}).status_code == 402
    tollbooth.assert_not_charged()


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
    assert answers == ["200", "402", "200", "200", "200", "200", "422", "200", "402", "200"]
    assert any(line.endswith("credit left: $0.09") for line in lines)


def test_variables_win_over_the_example_s_own_settings(tmp_path: Path) -> None:
    code = "from example_app.main import tollbooth; print(tollbooth.settings.top_up, tollbooth.settings.service)"

    def top_up(**variables: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        return subprocess.check_output([sys.executable, "-c", code], env=environment, cwd=tmp_path, text=True).strip()

    assert top_up() == "10 weather"
    assert top_up(TOLLBOOTH_TOP_UP="3") == "3 weather"
