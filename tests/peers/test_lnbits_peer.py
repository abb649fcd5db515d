"""A real LNbits receives the service's money: the conformance suite, and the whole way of a payment."""

import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth import Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.lightning import InvoiceState, LightningBackend, LightningUnavailable, UncheckedInvoice, bolt11
from fastapi_tollbooth.lightning.checking import request_invoice
from fastapi_tollbooth.lightning.lnbits import LnbitsNode
from fastapi_tollbooth.settings import LightningSettings
from tests.nodes.conformance import *  # noqa: F403
from tests.nodes.conformance import Setup
from tests.peers.conftest import PythonOf
from tests.peers.lnbits import Lnbits

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(sys.version_info >= (3, 13), reason="LNbits 1.6.2 does not install on Python 3.13"),
]


@pytest.fixture(scope="module")
def lnbits(python_of: PythonOf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lnbits]:
    # Its invoice library allows any bitstring but cannot be imported with the fifth.
    running = Lnbits(python_of("lnbits==1.6.2", "bitstring<5"), tmp_path_factory.mktemp("lnbits"))
    yield running
    running.kill()


@pytest.fixture
async def setup(lnbits: Lnbits) -> AsyncIterator[Setup]:
    def with_key(key: str) -> LightningBackend:
        values: Any = {"url": lnbits.url, "api_key": key}
        return LnbitsNode(LightningSettings(**values))

    async def pay(invoice: str) -> None:
        await anyio.to_thread.run_sync(lnbits.pay, invoice)

    node = with_key(lnbits.seller.invoice_key)
    yield Setup(node, 1_000, pay, with_key)
    await node.aclose()


@pytest.mark.anyio
async def test_an_invoice_that_nobody_paid_expires(setup: Setup) -> None:
    invoice = await request_invoice(setup.node, 21_000, "x", 4)
    await anyio.sleep((invoice.expires_at - datetime.now(UTC)).total_seconds() + 0.2)
    assert (await setup.node.lookup(invoice.payment_hash)).state is InvoiceState.EXPIRED


@pytest.mark.anyio
async def test_an_amountless_invoice_of_half_a_satoshi_is_never_offered(setup: Setup, lnbits: Lnbits) -> None:
    given = lnbits.invoice(0.5)
    assert bolt11.decode(given["bolt11"]).amount_msat is None, "LNbits no longer does what this is about"

    class Careless(LnbitsNode):
        async def create_invoice(self, *_: Any) -> UncheckedInvoice:
            return UncheckedInvoice(bytes.fromhex(given["payment_hash"]), given["bolt11"])

    values: Any = {"url": lnbits.url, "api_key": lnbits.seller.invoice_key}
    with pytest.raises(LightningUnavailable, match="cannot be offered"):
        await request_invoice(Careless(LightningSettings(**values)), 500, "x", 600)


# ── the whole way ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Shop:
    """An application that sells a forecast for 7 sat, three at a time, to the seller's wallet."""

    def __init__(self, lnbits: Lnbits, folder: Path) -> None:
        self.database = folder / "ledger.db"
        node: Any = {"backend": "lnbits", "url": lnbits.url, "api_key": lnbits.seller.invoice_key, "network": "mainnet"}
        settings = TollboothSettings(
            _env_file=None,
            environment="production",
            secret="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
            database_url=f"sqlite:///{self.database}",
            top_up=3,
            btc_usd="100000",
            settlement_wait=0.3,
            lightning=node,
        )
        self.runs = 0
        self.app = FastAPI()
        Tollbooth(settings).install(self.app)

        @self.app.get("/weather", dependencies=[Depends(priced("7 sat"))])
        async def weather() -> str:
            self.runs += 1
            return "sunny"

        @self.app.get("/joke", dependencies=[Depends(priced("9 sat"))])
        async def joke() -> str:
            self.runs += 1
            return "A macaroon walks into a bar."

    def rows(self, table: str) -> int:
        """How many rows the ledger has in a table."""
        if not self.database.exists():
            return 0
        with sqlite3.connect(self.database) as connection:
            count = connection.execute(f"SELECT count(*) FROM tollbooth_{table}").fetchone()[0]
        connection.close()
        return int(count)


@pytest.fixture
def shop(lnbits: Lnbits, tmp_path: Path) -> Shop:
    return Shop(lnbits, tmp_path)


Serve = Callable[..., TestClient]


def credential(offer: Any, preimage: str) -> dict[str, str]:
    return {"Authorization": f"L402 {offer['macaroon']}:{preimage}"}


def test_a_payment_is_made_spent_and_made_again(
    lnbits: Lnbits, shop: Shop, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    client = serve(shop.app)
    before = lnbits.balance_sat(lnbits.seller)
    secrets: list[str] = [lnbits.seller.invoice_key]
    told = ""

    refused, held = client.get("/weather"), list[dict[str, str]]()
    for bought in (1, 2):
        assert refused.status_code == 402
        offer = refused.json()
        assert offer["credential"]["topsUp"] is (bought == 2)
        assert offer["amountSats"] == 21
        assert bolt11.decode(offer["invoice"]).network == "bc"
        preimage = lnbits.pay(offer["invoice"])
        paid = credential(offer, preimage)
        secrets += [preimage, offer["macaroon"], paid["Authorization"]]
        held.append(paid)
        status = client.get(offer["statusUrl"])
        assert status.json()["status"] == "settled"
        told += status.text
        for number in range(3):
            # What was topped up is spent with either credential.
            assert client.get("/weather", headers=held[number % bought]).status_code == 200
        refused = client.get("/weather", headers=paid)
        assert refused.json()["reason"] == "insufficient_credit"
        told += refused.text.replace(refused.json()["macaroon"], "")
        assert shop.runs == 3 * bought
        assert lnbits.balance_sat(lnbits.seller) - before == 21 * bought
        assert shop.rows("payment") == bought
        assert client.get("/tollbooth/balance", headers=held[0]).json()["balance"] == "0 sat"

    kept = shop.database.read_bytes() + shop.database.with_name("ledger.db-wal").read_bytes()
    for secret in secrets:
        assert secret not in caplog.text
        assert secret not in told
        assert secret.encode() not in kept


def test_a_preimage_that_lnbits_tells_of_an_unpaid_invoice_opens_nothing(
    lnbits: Lnbits, shop: Shop, serve: Serve
) -> None:
    client = serve(shop.app)
    offer = client.get("/weather").json()
    leaked = lnbits.asked(offer["paymentHash"], lnbits.seller.invoice_key)["details"]["preimage"]
    assert leaked, "LNbits no longer does what this is about"
    refused = client.get("/weather", headers=credential(offer, leaked))
    assert (refused.status_code, refused.json()["reason"]) == (503, "settlement_unconfirmed")
    assert "www-authenticate" not in refused.headers
    assert (shop.runs, shop.rows("account"), shop.rows("payment")) == (0, 0, 0)

    assert lnbits.pay(offer["invoice"]) == leaked
    assert client.get("/weather", headers=credential(offer, leaked)).status_code == 200


def test_a_node_that_dies_between_payment_and_request_costs_nobody_a_second_payment(
    lnbits: Lnbits, shop: Shop, serve: Serve
) -> None:
    client = serve(shop.app)
    before = lnbits.balance_sat(lnbits.payer)
    offer = client.get("/weather").json()
    paid = credential(offer, lnbits.pay(offer["invoice"]))
    lnbits.kill()
    for _ in range(2):
        waiting = client.get("/weather", headers=paid)
        assert (waiting.status_code, waiting.json()["reason"]) == (503, "settlement_unconfirmed")
        assert int(waiting.headers["retry-after"]) > 0
        assert "www-authenticate" not in waiting.headers
        assert "invoice" not in waiting.json()
    unpaid = client.get("/joke")
    assert (unpaid.status_code, unpaid.json()["reason"]) == (503, "no_rail_available")
    assert shop.runs == 0

    lnbits.start()
    assert client.get("/weather", headers=paid).status_code == 200
    assert client.get("/joke").status_code == 402
    assert (shop.runs, shop.rows("payment")) == (1, 1)
    assert before - lnbits.balance_sat(lnbits.payer) == 21
