"""The wheel in an environment that has nothing else: what is in it, its import, the application of the README."""

import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import httpx
import pytest

from tests.environments import install, make_environment
from tests.service import free_port

pytestmark = [pytest.mark.peer, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
MOST = 1.2
"""Of the time that FastAPI and SQLModel, which are imported with it, take themselves."""
IMPORT = """
import time
began = time.perf_counter()
import fastapi, sqlmodel
between = time.perf_counter()
from fastapi_tollbooth import Toll, Tollbooth, priced
print((time.perf_counter() - between) / (between - began))
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    environment = wheel.parent / "environment"
    interpreter = make_environment(environment)
    install(interpreter, wheel)
    return interpreter


@pytest.fixture
def shop(python: Path, tmp_path: Path) -> Iterator[str]:
    """The README's first snippet, served from a folder of its own."""
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "shop.py").write_text(snippets[0])
    port = free_port()
    server = subprocess.Popen(
        [python, "-W", "error", "-m", "uvicorn", "shop:app", "--port", str(port), "--log-level", "warning"],
        cwd=tmp_path,
        env={"PATH": str(python.parent)},
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def test_it_has_what_it_needs_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    needed = ["py.typed", "models.json", "skill/SKILL.md", "ledger/migrations/env.py"]
    assert {f"fastapi_tollbooth/{each}" for each in needed} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"fastapi_tollbooth"}
    assert wheel.stat().st_size < 400_000


def test_it_is_imported_soon(python: Path, tmp_path: Path) -> None:
    run(python, "-c", IMPORT, cwd=tmp_path)  # compiles
    assert median(float(run(python, "-c", IMPORT, cwd=tmp_path)) for _ in range(5)) < MOST


def test_the_application_of_the_readme_is_paid(shop: str) -> None:
    for _ in range(200):
        try:
            offer = httpx.get(f"{shop}/weather")
            break
        except httpx.TransportError:
            time.sleep(0.05)
    assert offer.status_code == 402
    paid = httpx.post(f"{shop}/tollbooth/dev/pay", json={"invoice": offer.json()["invoice"]}).json()
    headers = {"Authorization": f"L402 {offer.json()['macaroon']}:{paid['preimage']}"}
    assert httpx.get(f"{shop}/weather", headers=headers).json() == {"sky": "blue"}
    assert httpx.get(f"{shop}/weather", headers=headers).status_code == 402


def test_its_commands_are_there(python: Path, tmp_path: Path) -> None:
    assert "TOLLBOOTH_TOP_UP" in run(python.with_name("fastapi-tollbooth"), "settings", cwd=tmp_path)
