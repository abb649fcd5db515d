"""The core tests against the oldest FastAPI that is supported and against the newest there is."""

import subprocess
from pathlib import Path

import pytest

from tests.environments import install, interpreter_of, make_environment

ROOT = Path(__file__).parent.parent
CORE = ["dependencies", "settlement", "routes", "openapi", "tollbooth", "responses", "testing"]
REQUIREMENTS = {"oldest": "fastapi==0.137.2", "newest": "fastapi"}


@pytest.mark.peer
@pytest.mark.parametrize("which", REQUIREMENTS)
def test_core(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.config.cache.mkdir(f"fastapi-{which}")
    python = interpreter_of(folder)
    if not python.exists():
        make_environment(folder)
    install(python, "--upgrade", REQUIREMENTS[which], "-e", ROOT, "--group", "test", cwd=ROOT)
    files = [f"tests/test_{name}.py" for name in CORE]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout[-6_000:] + finished.stderr[-2_000:]
