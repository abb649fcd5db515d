"""What ``docker compose up`` would do, without Docker.

Docker Compose reads the file, the commands of the image run in an environment of their own, and the services are a real
PostgreSQL, Redis, uvicorn and nginx on loopback.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from tests.databases import PostgresServer
from tests.environments import install, make_environment
from tests.nodes import KEY, Book, serving
from tests.nodes.vendors import phoenixd
from tests.peers.conftest import Command, ProgramOf, PythonOf
from tests.peers.proxies import Certificate, nginx, self_signed
from tests.peers.redis_server import Redis
from tests.service import free_port, wait_for
from tests.test_example_app import EXAMPLE, ROOT, filled_in

pytestmark = [pytest.mark.peer, pytest.mark.slow]

# The last Docker Compose that is a Python program; what it reads did not change since.
COMPOSE = (
    "--no-deps",
    *("docker-compose==1.29.2", "docker==5.0.3", "dockerpty==0.4.1", "docopt==0.6.2", "texttable==1.7.0"),
    *("jsonschema==3.2.0", "attrs==25.3.0", "pyrsistent==0.20.0", "six==1.17.0", "PyYAML==6.0.2", "distro==1.9.0"),
    *("python-dotenv==1.1.0", "websocket-client==0.59.0", "requests==2.32.3", "urllib3==2.4.0", "idna==3.10"),
    *("certifi", "charset-normalizer==3.4.2", "setuptools==69.5.1"),
)
SERVICES: dict[str, Any] = yaml.safe_load((EXAMPLE / "docker-compose.yml").read_text())["services"]


def run(command: Command, cwd: Path, environment: dict[str, str], seconds: float = 60) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=seconds
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_docker_compose_reads_its_file(python_of: PythonOf, tmp_path: Path) -> None:
    folder = tmp_path / "example_app"
    folder.mkdir()
    shutil.copy(EXAMPLE / "docker-compose.yml", folder)
    shutil.copy(EXAMPLE / ".env.example", folder / ".env")
    program = python_of(*COMPOSE).with_name("docker-compose")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    read = yaml.safe_load(run([program, "config"], folder, environment))
    assert set(read["services"]) == set(SERVICES)
    assert read["services"]["db"]["environment"]["POSTGRES_PASSWORD"] == "REPLACE-ME"
    (folder / ".env").write_text("")
    with pytest.raises(AssertionError, match=r"copy .env.example to .env"):
        run([program, "config"], folder, environment)


class Image(NamedTuple):
    """What a Dockerfile makes: a folder, an environment, and the command that runs in it."""

    folder: Path
    programs: Path
    command: list[str]

    def environment(self, **variables: str) -> dict[str, str]:
        return {"PATH": f"{self.programs}:/usr/bin:/bin", "HOME": str(self.folder), **variables}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The Dockerfile, line by line; what makes users of the system is left out."""
    folder = tmp_path_factory.mktemp("image")
    environment = folder / "environment"
    python = make_environment(environment)
    made = Image(folder / "srv", environment / "bin", [])
    made.folder.mkdir()
    text = re.sub(r"\\\n\s*", "", (EXAMPLE / "Dockerfile").read_text())
    for line in text.splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "COPY":
            *sources, target = rest.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    ignore = shutil.ignore_patterns(".env", "certs", "__pycache__")
                    shutil.copytree(ROOT / source, made.folder / target, ignore=ignore)
                else:
                    shutil.copy(ROOT / source, made.folder / target)
        elif instruction == "RUN" and rest.startswith("pip install "):
            arguments = shlex.split(rest.removeprefix("pip install").replace(" --no-cache-dir", ""))
            install(python, *arguments, cwd=made.folder)
        elif instruction == "CMD":
            made.command.extend(json.loads(rest))
        else:
            assert instruction in ("FROM", "WORKDIR", "USER", "#", "") or rest.startswith("useradd "), line
    return made


class Deployed(NamedTuple):
    """The address of nginx, that of the workers behind it, the node's books, and the variables of the containers."""

    url: str
    workers: str
    book: Book
    variables: dict[str, str]
    certificate: Certificate


@pytest.fixture
def variables(postgres_server: PostgresServer, redis: Redis) -> dict[str, str]:
    """``.env.example`` filled in, with what listens on this machine in place of the other containers."""
    lines = (EXAMPLE / ".env.example").read_text().splitlines()
    found = filled_in("\n".join(line for line in lines if not line.startswith("#")))
    return {name: value or "" for name, value in found.items()} | {
        "TOLLBOOTH_DATABASE_URL": postgres_server.empty(),
        "TOLLBOOTH_RATE_LIMIT_STORAGE": redis.url,
        "TOLLBOOTH_LIGHTNING__API_KEY": KEY,
        # The node's stand-in has invoices of a network for tests, and no exchange is asked.
        "TOLLBOOTH_LIGHTNING__NETWORK": "regtest",
        "TOLLBOOTH_BTC_USD": "60000",
        "FORWARDED_ALLOW_IPS": "127.0.0.1",
    }


@contextmanager
def workers(image: Image, variables: dict[str, str], folder: Path) -> Iterator[str]:
    """The image's command, on a port of loopback."""
    port = free_port()
    program, *options = image.command
    options[options.index("--host") + 1], options[options.index("--port") + 1] = "127.0.0.1", str(port)
    with (folder / "workers.log").open("w+") as log:
        environment = image.environment(**variables)
        command: Command = [image.programs / program, *options]
        server = subprocess.Popen(command, cwd=image.folder, env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)
            log.seek(0)
            printed = log.read()
        assert "Traceback" not in printed, printed


@pytest.fixture
def deployed(image: Image, variables: dict[str, str], program_of: ProgramOf, tmp_path: Path) -> Iterator[Deployed]:
    program, book, certificate = program_of("nginx", "-v"), Book(), self_signed(tmp_path)
    with serving(phoenixd(book), book) as node:
        variables["TOLLBOOTH_LIGHTNING__URL"] = f"http://127.0.0.1:{node}"
        migrate, *options = shlex.split(SERVICES["migrate"]["command"])
        run([image.programs / migrate, *options], image.folder, image.environment(**variables))
        with (
            workers(image, variables, tmp_path) as base,
            nginx(program, (EXAMPLE / "nginx.conf").read_text(), base, tmp_path, certificate) as url,
        ):
            yield Deployed(url, base, book, variables, certificate)


def test_the_services_of_the_example_serve_who_pays(image: Image, deployed: Deployed) -> None:
    def caller(number: int) -> httpx.Client:
        transport = httpx.HTTPTransport(verify=deployed.certificate.trust, local_address=f"127.0.0.{number}")
        return httpx.Client(base_url=deployed.url, transport=transport)

    # Its health check is true of the running workers, and false of none.
    kind, *check = SERVICES["shop"]["healthcheck"]["test"]
    assert kind == "CMD"
    check = [part.replace("http://127.0.0.1:8000", deployed.workers) for part in check]
    assert deployed.workers in check[-1]
    run([image.programs / check[0], *check[1:]], image.folder, image.environment())
    nobody = [part.replace(deployed.workers, f"http://127.0.0.1:{free_port()}") for part in check]
    with pytest.raises(AssertionError, match="refused"):
        run([image.programs / nobody[0], *nobody[1:]], image.folder, image.environment())

    # Paid credit is spent over both workers, and callers are counted by their own addresses.
    with caller(2) as payer, caller(3) as other:
        offer = payer.get("/weather/Lisbon")
        assert offer.status_code == 402
        preimage = deployed.book.pay(offer.json()["invoice"]).hex()
        credential = {"Authorization": f"L402 {offer.json()['macaroon']}:{preimage}"}
        answers = [payer.get("/weather/Lisbon", headers=credential) for _ in range(11)]
        assert [answer.status_code for answer in answers] == [200] * 10 + [402]
        question = {"model": "sparrow-1", "prompt": "Will it rain?"}
        lies = [{"X-Forwarded-For": f"198.51.100.{number}"} for number in range(6)]
        assert [payer.post("/chat", json=question, headers=lie).status_code for lie in lies] == [200] * 4 + [402] * 2
        assert other.post("/chat", json=question).status_code == 200
        assert httpx.get(f"{deployed.workers}/health").status_code == 200

    # Doctor, where the workers run.
    doctor: Command = [
        *(image.programs / "fastapi-tollbooth", "doctor", "example_app.main:app"),
        *("--workers", "2", "--probe", deployed.url, "--json"),
    ]
    trusting = deployed.variables | {"SSL_CERT_FILE": str(deployed.certificate.chain)}
    findings = json.loads(run(doctor, image.folder, image.environment(**trusting)))["findings"]
    assert {finding["check"] for finding in findings if finding["level"] != "ok"} == {"bind"}, findings
    ledger: Command = [image.programs / "fastapi-tollbooth", "ledger", "verify"]
    run(ledger, image.folder, image.environment(**deployed.variables))
