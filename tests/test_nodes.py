"""Every node behind HTTP against a server in its vendor's shapes: the conformance suite, and every kind of trouble."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth import ConfigurationError, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.lightning import InvoiceState, LightningBackend, LightningUnavailable, bolt11
from fastapi_tollbooth.lightning.checking import request_invoice
from fastapi_tollbooth.lightning.nodes import configured_node, configured_rates
from fastapi_tollbooth.rates import FixedRate, MedianRate
from tests.nodes import FAULTS, KEY, Book, Fault, serving
from tests.nodes.conformance import *  # noqa: F403
from tests.nodes.conformance import Setup
from tests.nodes.nwc import connection_string
from tests.nodes.vendors import REST_VENDORS, Vendor


def described(**values: Any) -> LightningBackend | None:
    """The node of these settings, in production."""
    settings = TollboothSettings(_env_file=None, environment="production", lightning=values)

    def no_keys() -> KeyRing:
        raise AssertionError("no real node needs the key ring")

    return configured_node(settings, Ledger("sqlite://"), no_keys)


@pytest.fixture(scope="module", params=REST_VENDORS, ids=lambda vendor: vendor.backend)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[Vendor, Book, str]]:
    vendor, book = request.param, Book()
    with serving(vendor.app(book), book) as port:
        yield vendor, book, f"http://127.0.0.1:{port}"


@pytest.fixture
def book(server: tuple[Vendor, Book, str]) -> Book:
    """The node's books, with nothing wrong."""
    server[1].__init__()  # type: ignore[misc]
    return server[1]


@pytest.fixture
async def setup(server: tuple[Vendor, Book, str], book: Book) -> AsyncIterator[Setup]:
    vendor, _, url = server

    def with_key(key: str) -> LightningBackend:
        node = described(backend=vendor.backend, url=url, api_key=key)
        assert node is not None
        assert type(node) is vendor.client
        return node

    async def pay(invoice: str) -> None:
        book.pay(invoice)

    node = with_key(KEY)
    yield Setup(node, vendor.granularity_msat, pay, with_key)
    await node.aclose()


@contextmanager
def impatient(node: LightningBackend) -> Iterator[None]:
    """Have a node's client wait no longer than a slow answer takes."""
    client = node._client  # type: ignore[attr-defined]
    patience, client._timeout = client._timeout, 0.3
    yield
    client._timeout = patience


@pytest.mark.anyio
async def test_an_expired_invoice_is_expired(setup: Setup, book: Book) -> None:
    invoice = await request_invoice(setup.node, 21_000, "x", 600)
    book.expire(invoice.payment_hash)
    assert (await setup.node.lookup(invoice.payment_hash)).state is InvoiceState.EXPIRED


@pytest.mark.anyio
@pytest.mark.parametrize("fault", FAULTS)
async def test_trouble_of_every_kind_is_unavailability_and_reveals_nothing(
    setup: Setup, book: Book, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    invoice = await request_invoice(setup.node, 21_000, "x", 600)
    preimage = book.invoices[invoice.payment_hash].preimage.hex()
    book.fault = fault
    with impatient(setup.node):
        with pytest.raises(LightningUnavailable) as from_creating:
            await request_invoice(setup.node, 21_000, "x", 600)
        with pytest.raises(LightningUnavailable) as from_lookup:
            await setup.node.lookup(invoice.payment_hash)
    book.fault = None
    assert (await setup.node.lookup(invoice.payment_hash)).state is InvoiceState.PENDING
    told = caplog.text + str(from_creating.value) + str(from_lookup.value)
    assert KEY not in told
    assert preimage not in told
    assert "fastapi_tollbooth.lightning" in {record.name for record in caplog.records}


@pytest.mark.anyio
@pytest.mark.parametrize("fault", ["dropped", "error", "busy", "html", "slow"])
async def test_an_invoice_is_asked_for_once_and_a_lookup_at_most_twice(setup: Setup, book: Book, fault: Fault) -> None:
    book.fault = fault
    with impatient(setup.node):
        with pytest.raises(LightningUnavailable):
            await request_invoice(setup.node, 21_000, "x", 600)
        assert len(book.calls) <= 1
        with pytest.raises(LightningUnavailable):
            await setup.node.lookup(b"h" * 32)
    assert len(book.calls) <= 3
    assert "elsewhere" not in " ".join(book.calls)


@pytest.mark.anyio
async def test_a_lookup_survives_one_dropped_connection(setup: Setup, book: Book) -> None:
    invoice = await request_invoice(setup.node, 21_000, "x", 600)
    book.fault = "dropped"
    looking = asyncio.create_task(setup.node.lookup(invoice.payment_hash))
    while len(book.calls) < 2:
        await asyncio.sleep(0)
    book.fault = None
    assert (await looking).state is InvoiceState.PENDING


@pytest.mark.anyio
async def test_a_node_that_is_not_there_is_unavailable(setup: Setup) -> None:
    vendor = next(each for each in REST_VENDORS if each.client is type(setup.node))
    node = described(backend=vendor.backend, url="http://127.0.0.1:1", api_key=KEY)
    assert node is not None
    with pytest.raises(LightningUnavailable):
        await node.lookup(b"h" * 32)
    with pytest.raises(LightningUnavailable):
        await request_invoice(node, 21_000, "x", 600)
    await node.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "alteration",
    [{"amount_msat": 1_000}, {"amount_msat": 22_000}, {"payment_hash": b"h" * 32}, {"expiry_seconds": 1}],
    ids=str,
)
async def test_an_invoice_that_is_not_what_was_asked_for_is_never_offered(
    setup: Setup, book: Book, alteration: dict[str, Any]
) -> None:
    book.alter = alteration
    with pytest.raises(LightningUnavailable, match="cannot be offered"):
        await request_invoice(setup.node, 21_000, "x", 600)
    book.alter = {"network": "bc"}
    with pytest.raises(LightningUnavailable, match="cannot be offered"):
        await request_invoice(setup.node, 21_000, "x", 600, network="bcrt")


def test_a_service_over_this_node_serves_who_paid_and_asks_nobody_to_pay_twice(
    server: tuple[Vendor, Book, str], book: Book, tmp_path: Path, serve: Callable[..., TestClient]
) -> None:
    vendor, _, url = server
    app, runs = FastAPI(), []
    node: Any = {"backend": vendor.backend, "url": url, "api_key": KEY}
    settings = TollboothSettings(
        _env_file=None, database_url=f"sqlite:///{tmp_path}/t.db", lightning=node, top_up=2, settlement_wait=0.1
    )
    Tollbooth(settings).install(app)

    @app.get("/{name}", dependencies=[Depends(priced("7 sat"))])
    async def forecast(name: str) -> str:
        runs.append(name)
        return "sunny"

    client = serve(app)
    offer = client.get("/paid").json()
    credential = {"Authorization": f"L402 {offer['macaroon']}:{book.pay(offer['invoice']).hex()}"}
    assert offer["amountSats"] == 14
    assert client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]}).status_code in (404, 405)

    for fault in ("dropped", "error", "busy", "null"):
        book.fault = fault
        waiting = client.get("/waiting", headers=credential)
        assert (waiting.status_code, waiting.json()["reason"]) == (503, "settlement_unconfirmed")
        assert "www-authenticate" not in waiting.headers
        assert "retry-after" in waiting.headers
    book.fault = None
    assert client.get("/served", headers=credential).status_code == 200
    book.fault = "dropped"
    assert client.get("/served", headers=credential).status_code == 200, "what is paid needs no node"
    spent = client.get("/spent", headers=credential)
    assert (spent.status_code, spent.json()["reason"]) == (503, "no_rail_available")
    assert runs == ["served", "served"]
    assert len(book.invoices) == 1


@pytest.mark.anyio
async def test_an_event_loop_that_has_ended_is_forgotten(setup: Setup) -> None:
    invoice = await request_invoice(setup.node, 21_000, "x", 600)
    states = [await asyncio.to_thread(lambda: asyncio.run(closing(setup.node, invoice.payment_hash))) for _ in range(2)]
    assert states == [InvoiceState.PENDING] * 2
    assert bolt11.decode(invoice.bolt11).payment_hash == invoice.payment_hash


async def closing(node: LightningBackend, payment_hash: bytes) -> InvoiceState:
    state = (await node.lookup(payment_hash)).state
    await node.aclose()
    return state


def test_the_development_node_does_not_run_in_production() -> None:
    settings = TollboothSettings(_env_file=None, environment="production", lightning={"backend": "dev"})
    with pytest.raises(ConfigurationError, match="production"):
        configured_node(settings, Ledger("sqlite://"), lambda: KeyRing((b"n" * 32,)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [({}, FixedRate), ({"btc_usd": "1"}, FixedRate), ({"environment": "production"}, MedianRate)],
)
def test_only_the_development_node_s_coins_have_a_made_up_price(values: dict[str, Any], expected: type) -> None:
    assert type(configured_rates(TollboothSettings(_env_file=None, **values))) is expected
    real = TollboothSettings(_env_file=None, lightning={"backend": "lnd"}, **values)
    assert type(configured_rates(real)) is (FixedRate if "btc_usd" in values else MedianRate)


def test_nostr_wallet_connect_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    url = connection_string("wss://relay.example")
    assert type(described(backend="nwc", url=url)).__name__ == "NwcNode"
    monkeypatch.setitem(sys.modules, "fastapi_tollbooth.lightning.nwc", None)
    with pytest.raises(ConfigurationError, match=r"fastapi-tollbooth\[nwc\]"):
        described(backend="nwc", url=url)


def test_no_node_is_configured_unless_one_is_named() -> None:
    for backend in ("none", None):
        assert described(backend=backend) is None
