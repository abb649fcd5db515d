import subprocess
import sys
from pathlib import Path

SUITE = """
import pytest
from fastapi import Depends, FastAPI
from fastapi_tollbooth import Tollbooth, TollboothSettings, priced

@pytest.fixture
def app(tmp_path):
    app = FastAPI()
    Tollbooth(TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/t.db")).install(app)

    @app.get("/weather", dependencies=[Depends(priced("$0.01"))])
    async def weather():
        return {"t": 21}
    return app

def test_weather(paying_client, tollbooth):
    assert paying_client.get("/weather").json()["t"] == 21
    tollbooth.assert_charged("$0.01")

def test_unpaid(unpaid_client):
    assert unpaid_client.get("/weather").status_code == 402
"""


def run(*arguments: str, cwd: Path) -> str:
    finished = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    return finished.stdout + finished.stderr


def test_the_fixtures_are_there_wherever_the_package_is_installed(tmp_path: Path) -> None:
    (tmp_path / "test_user.py").write_text(SUITE)
    assert "2 passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)


def test_a_suite_that_does_not_use_them_pays_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_nothing_was_imported():\n"
        "    assert 'fastapi_tollbooth.pytest_plugin' in sys.modules\n"
        "    assert not {'fastapi', 'sqlmodel', 'sqlalchemy', 'pydantic', 'pymacaroons'} & set(sys.modules)\n"
    )
    assert "1 passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", cwd=tmp_path)
