"""Official x402 clients pay a real server through the official facilitator; transfers are mined on a local chain."""

import base64
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.peers.conftest import CLIENTS, NodeFolderOf, PythonOf, run_driver, running_server
from tests.x402_payer import PAY_TO

pytestmark = pytest.mark.peer

OFFICIAL = (
    "x402[evm,httpx,requests]==2.25.0",
    "eth-tester==0.14.0b1",
    "py-evm==0.12.1b1",
    "vyper==0.4.3",
    "jsonschema",
)
VERSION_1 = ("x402==0.2.1",)
# viem is named because its newest release may need a package that registries do not have yet.
TYPESCRIPT = ("@x402/fetch@2.27.0", "@x402/evm@2.27.0", "viem@2.57.0")
BALANCE_OF = "0x70a08231"
SUPPLY = 1_000_000_000
PRICE = 10_000


class Bed:
    """The chain, the token and the facilitator."""

    def __init__(self, place: dict[str, str]) -> None:
        self.place = place
        self.key = place["key"]

    def balance(self, address: str) -> int:
        """Atomic units of the token."""
        call = {"to": self.place["token"], "data": BALANCE_OF + address[2:].lower().rjust(64, "0")}
        body = {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [call, "latest"]}
        return int(httpx.post(self.place["rpc"], json=body).json()["result"], 16)

    def fault(self, name: str | None) -> None:
        """Have the facilitator fail at settling."""
        httpx.post(f"{self.place['facilitator']}/fault", json=name)

    def settled(self) -> int:
        """How often the facilitator was asked to settle."""
        return int(httpx.get(f"{self.place['facilitator']}/calls").json().count("/settle"))


@pytest.fixture(scope="module")
def official(python_of: PythonOf) -> Path:
    return python_of(*OFFICIAL)


@contextmanager
def running_bed(python: Path) -> Iterator[Bed]:
    program = Path(__file__).parent / "chain" / "bed.py"
    process = subprocess.Popen([python, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Bed(json.loads(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=20)


@pytest.fixture
def bed(official: Path) -> Iterator[Bed]:
    with running_bed(official) as running:
        yield running


@pytest.fixture
def shop(bed: Bed, tmp_path: Path) -> Iterator[str]:
    """The base URL of a server that takes Lightning, and stablecoins on the local chain."""
    with running_server(
        tmp_path,
        TOLLBOOTH_X402__PAY_TO=PAY_TO,
        TOLLBOOTH_X402__NETWORKS='["base-sepolia"]',
        TOLLBOOTH_X402__FACILITATOR_URL=bed.place["facilitator"],
        TOLLBOOTH_X402__RPC_URL=bed.place["rpc"],
    ) as base:
        yield base


def runs(shop: str) -> dict[str, int]:
    found: dict[str, int] = httpx.get(f"{shop}/runs").json()
    return found


def signatures(
    official: Path, bed: Bed, shop: str, path: str, times: int = 1, identifier: str | None = None
) -> list[dict[str, str]]:
    """Payments for a route, signed by the official client and not sent."""
    required = httpx.get(shop + path).headers["payment-required"]
    told = {"required": required, "key": bed.key, "times": times, "identifier": identifier}
    signed = run_driver([official, CLIENTS / "x402_signer.py"], told)
    return [{"PAYMENT-SIGNATURE": header} for header in signed]


def receipt(header: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(header))
    return found


def ledger(tmp_path: Path) -> list[tuple[str, str]]:
    """The states and transactions of all x402 payments, read beside the running server."""
    with sqlite3.connect(f"file:{tmp_path}/tollbooth.db?mode=ro", uri=True) as connection:
        query = "SELECT state, coalesce(reference, '') FROM tollbooth_payment WHERE rail = 'x402'"
        return list(connection.execute(query))


def test_one_402_is_paid_by_every_generation_of_client_and_over_lightning(
    bed: Bed, shop: str, official: Path, python_of: PythonOf, node_folder_of: NodeFolderOf, tmp_path: Path
) -> None:
    told = {"key": bed.key, "urls": [f"{shop}/weather", f"{shop}/joke", f"{shop}/letter"]}
    bodies = [{"forecast": "sunny"}, {"joke": "A macaroon walks into a bar."}, {"letter": "sent"}]
    # Before anybody pays: a client of version 1 is refused if the last block is a minute older than its signature.
    folder, version_1 = node_folder_of(*TYPESCRIPT), python_of(*VERSION_1)
    script = shutil.copy(CLIENTS / "x402_fetch_client.mjs", folder)
    rounds = run_driver([official, CLIENTS / "x402_client.py"], told)  # httpx, then requests
    rounds += run_driver([version_1, CLIENTS / "x402_v1_client.py"], told)
    rounds += run_driver([shutil.which("node") or "node", script], told)

    assert [answer["status"] for answer in rounds] == [200] * 12
    assert [answer["body"] for answer in rounds] == bodies * 4
    receipts = [receipt(answer["receipt"]) for answer in rounds]
    assert all(found["success"] and found["payer"].lower() == bed.place["payer"].lower() for found in receipts)
    assert {found["network"] for found in receipts[6:9]} == {"base-sepolia"}
    earned = 4 * (10_000 + 21_000 + 20_000)
    assert bed.balance(PAY_TO) == earned
    assert bed.balance(bed.place["payer"]) == SUPPLY - earned
    assert sorted(ledger(tmp_path)) == sorted(("settled", found["transaction"]) for found in receipts)
    assert runs(shop) == {"weather": 4, "joke": 4, "letter": 4}

    over_lightning = run_driver(
        [python_of("l402-requests==0.9.0"), "-m", "tests.peers.clients.l402_requests_client", shop]
    )
    assert {answer["status"] for answer in over_lightning} == {200}
    assert bed.balance(PAY_TO) == earned


def test_twenty_copies_of_one_signature_make_one_transfer(bed: Bed, shop: str, official: Path) -> None:
    payment = signatures(official, bed, shop, "/weather")[0]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: httpx.get(f"{shop}/weather", headers=payment, timeout=60), range(20)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {403, 409}
    assert all("payment-required" not in answer.headers for answer in answers)
    assert (runs(shop), bed.balance(PAY_TO), bed.settled()) == ({"weather": 1}, PRICE, 1)


def test_a_lost_answer_costs_once(bed: Bed, shop: str, official: Path, tmp_path: Path) -> None:
    payment = signatures(official, bed, shop, "/weather")[0]
    bed.fault("lose")
    lost = httpx.get(f"{shop}/weather", headers=payment, timeout=60)
    assert (lost.status_code, lost.json()["reason"]) == (503, "settlement_unknown")
    assert "payment-required" not in lost.headers
    assert bed.balance(PAY_TO) == PRICE
    served = httpx.get(f"{shop}/weather", headers=payment, timeout=60)
    assert (served.status_code, served.json()) == (200, {"forecast": "sunny"})
    again = httpx.get(f"{shop}/weather", headers=payment, timeout=60)
    assert (again.status_code, again.json()["reason"]) == (403, "already_spent")
    assert bed.balance(PAY_TO) == PRICE
    assert [state for state, _ in ledger(tmp_path)] == ["settled"]
    assert receipt(served.headers["payment-response"])["transaction"] == ledger(tmp_path)[0][1]


@pytest.mark.parametrize("path", ["/weather", "/letter"])
def test_what_the_official_client_named_is_answered_again(bed: Bed, shop: str, official: Path, path: str) -> None:
    named, another = signatures(official, bed, shop, path, 2, "pay_7d5d747be160e280504c099d984bcfe0")
    first, again = (httpx.get(shop + path, headers=named, timeout=60) for _ in range(2))
    assert (first.status_code, again.status_code, again.content) == (200, 200, first.content)
    assert again.headers["payment-response"] == first.headers["payment-response"]
    assert "idempotent-replayed" in again.headers
    refused = httpx.get(shop + path, headers=another, timeout=60)
    assert (refused.status_code, refused.json()["reason"]) == (409, "identifier_in_use")
    price = PRICE if path == "/weather" else 2 * PRICE
    assert (runs(shop), bed.balance(PAY_TO), bed.settled()) == ({path[1:]: 1}, price, 1)


def test_what_fails_moves_no_money(bed: Bed, shop: str, official: Path) -> None:
    stumbling, refused, tampered, elsewhere = signatures(official, bed, shop, "/weather", 4)
    assert httpx.get(f"{shop}/stumble", headers=stumbling, timeout=60).status_code == 500
    assert bed.settled() == 0

    bed.fault("refuse")
    withheld = httpx.get(f"{shop}/weather", headers=refused, timeout=60)
    assert (withheld.status_code, withheld.json()["reason"]) == (402, "settlement_failed")
    assert "sunny" not in withheld.text
    bed.fault(None)

    document = receipt(tampered["PAYMENT-SIGNATURE"])
    signature = document["payload"]["signature"]
    document["payload"]["signature"] = signature[:-4] + ("00" if signature[-4:-2] != "00" else "11") + signature[-2:]
    forged = {"PAYMENT-SIGNATURE": base64.b64encode(json.dumps(document).encode()).decode()}
    answer = httpx.get(f"{shop}/weather", headers=forged, timeout=60)
    assert (answer.status_code, answer.json()["reason"]) == (402, "payment_invalid")

    dearer = httpx.get(f"{shop}/letter", headers=elsewhere, timeout=60)
    assert (dearer.status_code, dearer.json()["reason"]) == (402, "wrong_amount")
    assert bed.balance(PAY_TO) == 0
    assert runs(shop) == {"stumble": 1, "weather": 1}

    # Nothing was charged for any of them, so they are good still.
    for payment in (stumbling, refused, tampered, elsewhere):
        assert httpx.get(f"{shop}/weather", headers=payment, timeout=60).status_code == 200
    assert bed.balance(PAY_TO) == 4 * PRICE


def test_one_transfer_buys_credit_for_many_requests(bed: Bed, shop: str, official: Path) -> None:
    wanted = {"amount": "$0.03"}
    required = httpx.post(f"{shop}/tollbooth/credits", json=wanted).headers["payment-required"]
    told = {"required": required, "key": bed.key, "times": 1}
    payment = {"PAYMENT-SIGNATURE": run_driver([official, CLIENTS / "x402_signer.py"], told)[0]}
    sold = httpx.post(f"{shop}/tollbooth/credits", json=wanted, headers=payment, timeout=60)
    assert sold.status_code == 200, sold.text
    spend = {"Authorization": sold.json()["authorization"]}
    assert [httpx.get(f"{shop}/weather", headers=spend).status_code for _ in range(4)] == [200, 200, 200, 402]
    assert (bed.balance(PAY_TO), bed.settled(), runs(shop)) == (30_000, 1, {"weather": 3})
