"""The deployments of the documentation, for real: nginx and Caddy in front of the example in production.

The Lightning node and the facilitator are stand-ins on loopback; TLS, proxies, server and application are not.
"""

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from fastapi_tollbooth.rails.x402.networks import BY_NAME
from tests.nodes import KEY, Book
from tests.nodes import serving as serving_node
from tests.nodes.vendors import phoenixd
from tests.peers.conftest import Command, ProgramOf
from tests.peers.proxies import HOST, Certificate, caddy, documented, nginx, self_signed
from tests.service import running
from tests.stub_facilitator import stub_facilitator
from tests.x402_payer import PAY_TO, encode, sign

pytestmark = pytest.mark.peer

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy.md"
EXAMPLE = ROOT / "example_app" / "nginx.conf"
# The headers of a 402 with so many offers are more than a proxy takes by default.
NETWORKS = [str(network.name) for network in BY_NAME.values() if network.is_evm][:9]
SPARROW = {"model": "sparrow-1", "prompt": "Will it rain?"}
"""Half a cent, and two cents a day are free."""

PROXIES = ["nginx", "nginx of the example", "nginx that caches", "Caddy"]


class Deployment(NamedTuple):
    """A proxy's address, what is behind it, and what callers are told that it is called."""

    url: str
    public_url: str
    book: Book
    variables: dict[str, str]
    certificate: Certificate

    def caller(self, number: int) -> httpx.Client:
        """A caller with an address of its own: 127.0.0.1 is the proxy's."""
        transport = httpx.HTTPTransport(verify=self.certificate.trust, local_address=f"127.0.0.{number}")
        return httpx.Client(base_url=self.url, transport=transport)


def documented_options() -> list[str]:
    """How the page starts uvicorn, but for the port."""
    [command] = re.findall(r"^\$ uvicorn shop:app (.*)$", DEPLOY.read_text(), re.MULTILINE)
    options = shlex.split(command.replace("--port 8000 ", ""))
    assert "--forwarded-allow-ips" in options
    assert options[options.index("--host") + 1] == "127.0.0.1"
    return options


@pytest.fixture(scope="module", params=PROXIES)
def deployed(
    request: pytest.FixtureRequest, program_of: ProgramOf, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    folder, kind, book = tmp_path_factory.mktemp("deployed"), request.param, Book()
    program = program_of("caddy", "version") if kind == "Caddy" else program_of("nginx", "-v")
    certificate = self_signed(folder)
    with serving_node(phoenixd(book), book) as node, stub_facilitator() as facilitator:
        facilitator.kinds = [{"x402Version": 2, "scheme": "exact", "network": BY_NAME[each].id} for each in NETWORKS]
        variables = {
            "TOLLBOOTH_ENVIRONMENT": "production",
            "TOLLBOOTH_SECRET": "5f1c0a7be39d42868b1de7f9c04a6e35720bd8f1",
            "TOLLBOOTH_DATABASE_URL": f"sqlite:///{folder}/tollbooth.db",
            "TOLLBOOTH_LIGHTNING__BACKEND": "phoenixd",
            "TOLLBOOTH_LIGHTNING__URL": f"http://127.0.0.1:{node}",
            "TOLLBOOTH_LIGHTNING__API_KEY": KEY,
            "TOLLBOOTH_LIGHTNING__NETWORK": "regtest",
            "TOLLBOOTH_BTC_USD": "60000",
            "TOLLBOOTH_X402__PAY_TO": PAY_TO,
            "TOLLBOOTH_X402__NETWORKS": json.dumps(NETWORKS),
            "TOLLBOOTH_X402__FACILITATOR_URL": facilitator.url,
        }
        # Behind Caddy the address is the one that callers used.
        public = {} if kind == "Caddy" else {"TOLLBOOTH_PUBLIC_URL": f"https://{HOST}"}
        with running("example_app.main:app", *documented_options(), **variables, **public) as base:
            if kind == "Caddy":
                proxy = caddy(program, documented(DEPLOY, "caddy"), base, folder, certificate)
            else:
                server = EXAMPLE.read_text() if kind == "nginx of the example" else documented(DEPLOY, "nginx")
                proxy = nginx(program, server, base, folder, certificate, caching=kind == "nginx that caches")
            with proxy as url:
                public_url = public.get("TOLLBOOTH_PUBLIC_URL", url)
                yield Deployment(url, public_url, book, {**variables, **public}, certificate)


def test_doctor_finds_nothing_in_the_deployment_of_the_documentation(deployed: Deployment, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOLLBOOTH_")}
    environment |= deployed.variables | {
        "FORWARDED_ALLOW_IPS": "127.0.0.1",
        "SSL_CERT_FILE": str(deployed.certificate.chain),
        "PYTHONPATH": str(ROOT),
    }
    program = Path(sys.executable).with_name("fastapi-tollbooth")
    options = ["--host", "127.0.0.1", "--probe", deployed.url, "--json"]
    command: Command = [program, "doctor", "example_app.main:app", *options]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert said.stdout, said.stderr
    findings = json.loads(said.stdout)["findings"]
    assert [finding for finding in findings if finding["level"] != "ok"] == []
    assert said.returncode == 0
    assert {"tls", "offer", "reachable", "facilitators", "bind"} <= {finding["check"] for finding in findings}


def test_a_402_passes_with_all_its_headers_and_names_the_address_that_callers_use(deployed: Deployment) -> None:
    with deployed.caller(2) as client:
        refused = client.get("/weather/Lisbon", headers={"Host": deployed.url.removeprefix("https://")})
    assert refused.status_code == 402
    offer = json.loads(base64.b64decode(refused.headers["payment-required"]))
    assert len(refused.headers["payment-required"]) > 4_096, "or any proxy takes it"
    assert len(offer["accepts"]) == len(NETWORKS)
    assert offer["resource"]["url"] == f"{deployed.public_url}/weather/Lisbon"
    assert deployed.public_url.startswith("https://")
    assert "lnbcrt" in refused.headers["www-authenticate"]
    assert refused.headers["cache-control"] == "no-store"
    assert {"Authorization", "PAYMENT-SIGNATURE"} <= set(refused.headers["vary"].split(", "))


def test_money_passes_by_lightning_and_by_stablecoin(deployed: Deployment) -> None:
    with deployed.caller(3) as client:
        refused = client.get("/weather/Porto")
        preimage = deployed.book.pay(refused.json()["invoice"]).hex()
        credential = {"Authorization": f"L402 {refused.json()['macaroon']}:{preimage}"}
        served = client.get("/weather/Porto", headers=credential)
        assert (served.status_code, served.headers["x-credit-balance"]) == (200, "$0.09")
        assert served.headers["cache-control"] == "private"
        offer = json.loads(base64.b64decode(refused.headers["payment-required"]))
        signed = encode(sign(offer["accepts"][0]))
        settled = client.get("/weather/Porto", headers={"PAYMENT-SIGNATURE": signed})
        assert settled.status_code == 200, settled.text
        assert json.loads(base64.b64decode(settled.headers["payment-response"]))["success"] is True
        again = client.get("/weather/Porto", headers={"PAYMENT-SIGNATURE": signed})
        assert again.status_code in (402, 403), "or it was served from a cache"


def test_a_402_passes_over_http_2(deployed: Deployment) -> None:
    curl = shutil.which("curl")
    if curl is None or "HTTP2" not in subprocess.check_output([curl, "--version"], text=True):
        pytest.skip("there is no curl that speaks HTTP/2")
    trust = ["--cacert", str(deployed.certificate.chain), "--interface", "127.0.0.11"]
    command = [curl, "-sS", "--http2", "-D", "-", "-o", os.devnull, *trust, f"{deployed.url}/weather/Evora"]
    head = subprocess.check_output(command, text=True)
    assert head.startswith("HTTP/2 402")
    assert re.search("^payment-required: .{4096}", head, re.MULTILINE)
    assert re.search("^www-authenticate: L402 ", head, re.MULTILINE)


def test_a_long_credential_arrives(deployed: Deployment) -> None:
    with deployed.caller(4) as client:
        refused = client.get("/weather/Faro", headers={"Authorization": f"L402 {'A' * 10_000}:{'0' * 64}"})
    assert (refused.status_code, refused.json()["reason"]) == (402, "malformed_credential")


def test_callers_are_told_apart_and_cannot_lie(deployed: Deployment) -> None:
    lies = [
        {header: value.format(number)}
        for number in range(3)
        for header, value in {
            "X-Forwarded-For": "198.51.100.{}",
            "X-Real-IP": "198.51.100.{}",
            "Forwarded": "for=198.51.100.{}",
        }.items()
    ]
    with deployed.caller(5) as liar, deployed.caller(6) as other:
        statuses = [liar.post("/chat", json=SPARROW, headers=headers).status_code for headers in lies]
        assert statuses == [200] * 4 + [402] * 5
        assert other.post("/chat", json=SPARROW).status_code == 200


def test_neither_offers_nor_paid_answers_are_ever_kept(deployed: Deployment) -> None:
    with deployed.caller(7) as payer, deployed.caller(8) as other:
        # The cache, where there is one, does work: what is public and free is served from it.
        kept = [payer.get("/health").headers.get("x-cache") for _ in range(2)][1]
        assert kept in (None, "HIT")
        refused = payer.get("/joke")
        preimage = deployed.book.pay(refused.json()["invoice"]).hex()
        credential = {"Authorization": f"L402 {refused.json()['macaroon']}:{preimage}"}
        balances = [payer.get("/joke", headers=credential).json()["balance"] for _ in range(3)]
        assert balances == ["189 sat", "168 sat", "147 sat"]
        unpaid = other.get("/joke")
        assert (unpaid.status_code, unpaid.headers.get("x-cache")) == (402, kept and "MISS")
        assert unpaid.json()["invoice"] != refused.json()["invoice"]


def test_streams_arrive_as_they_are_made(deployed: Deployment) -> None:
    with deployed.caller(9) as client:
        refused = client.get("/story")
        preimage = deployed.book.pay(refused.json()["invoice"]).hex()
        credential = {"Authorization": f"L402 {refused.json()['macaroon']}:{preimage}"}
        times = []
        with client.stream("GET", "/story", headers=credential) as answer:
            for _ in answer.iter_raw():
                times.append(time.monotonic())
    if "x-cache" not in answer.headers:  # A cache has buffers.
        assert len(times) > 5
        assert times[-1] - times[0] > 0.15


def test_the_development_node_is_out_of_reach(deployed: Deployment) -> None:
    with deployed.caller(10) as client:
        assert client.post("/tollbooth/dev/pay", json={"invoice": "x"}).status_code == 404
