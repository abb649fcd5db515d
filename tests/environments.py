"""Virtual environments for programs that must not see ours.

The pip of this environment installs into them: to give each its own takes longer than most of what they are for.
"""

import os
import subprocess
import sys
from pathlib import Path

INSTALL_SECONDS = 600


def make_environment(folder: Path) -> Path:
    """The interpreter of a new environment with nothing in it."""
    _run(sys.executable, "-m", "venv", "--without-pip", folder)
    return interpreter_of(folder)


def interpreter_of(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(interpreter: Path, *arguments: str | Path, cwd: Path | None = None) -> None:
    """``pip install`` with these arguments, for this interpreter. What is never imported is not compiled."""
    pip = (sys.executable, "-m", "pip", "--python", interpreter, "--disable-pip-version-check", "--quiet")
    _run(*pip, "install", "--no-compile", *arguments, cwd=cwd)


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
