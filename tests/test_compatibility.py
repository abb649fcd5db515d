"""The core tests against the oldest FastAPI that is supported and against the newest there is."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ["dependencies", "settlement", "routes", "openapi", "tollbooth", "responses", "testing"]
REQUIREMENTS = {"oldest": "fastapi==0.137.2", "newest": "fastapi"}


@pytest.mark.peer
@pytest.mark.parametrize("which", REQUIREMENTS)
def test_core(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.config.cache.mkdir(f"fastapi-{which}")
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=True)
    subprocess.run([*pip, "--upgrade", REQUIREMENTS[which], "-e", str(ROOT), "--group", "test"], cwd=ROOT, check=True)
    files = [f"tests/test_{name}.py" for name in CORE]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout[-6_000:] + finished.stderr[-2_000:]
