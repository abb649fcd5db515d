"""Nostr Wallet Connect over a relay on this machine: the conformance suite, and every kind of trouble."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from fastapi_tollbooth import ConfigurationError
from fastapi_tollbooth.lightning import InvoiceState, LightningBackend, LightningUnavailable
from fastapi_tollbooth.lightning.checking import request_invoice
from fastapi_tollbooth.lightning.nostr import Keys
from fastapi_tollbooth.lightning.nwc import NwcNode
from fastapi_tollbooth.settings import LightningSettings
from tests.nodes import Book
from tests.nodes.conformance import *  # noqa: F403
from tests.nodes.conformance import Setup
from tests.nodes.nwc import SERVICE_SECRET, WALLET, Relay, Wallet, connection_string, relaying


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def wallet(book: Book) -> Wallet:
    return Wallet(book)


@pytest.fixture
def relay(wallet: Wallet) -> Relay:
    known = SERVICE_SECRET

    def respond(document: dict[str, Any]) -> list[dict[str, Any]]:
        if document["kind"] == 23_194 and document["pubkey"] != Keys(known).public.hex():
            wallet.error = "UNAUTHORIZED"
        return wallet.respond(document)

    return Relay(on_event=respond)


@pytest.fixture
def address(relay: Relay, wallet: Wallet) -> Iterator[str]:
    relay.stored.append(wallet.info())
    with relaying(relay) as address:
        yield address


def node_of(url: str, **values: Any) -> NwcNode:
    return NwcNode(LightningSettings(**{"url": url, **values}))


@pytest.fixture
async def setup(address: str, book: Book) -> AsyncIterator[Setup]:
    def with_key(key: str) -> LightningBackend:
        return node_of(connection_string(address, key.encode()[:32]))

    async def pay(invoice: str) -> None:
        book.pay(invoice)

    node = node_of(connection_string(address), timeout=5)
    yield Setup(node, 1_000, pay, with_key)
    await node.aclose()


# ── what differs among wallets ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("encryption", "used"),
    [("nip44_v2", "nip44_v2"), ("nip44_v2 nip04", "nip44_v2"), ("nip04", "nip04"), (None, "nip04")],
)
async def test_the_encryption_is_one_that_the_wallet_knows(
    relay: Relay, wallet: Wallet, book: Book, encryption: str | None, used: str
) -> None:
    wallet.encryption = encryption
    relay.stored.append(wallet.info())
    with relaying(relay) as address:
        node = node_of(connection_string(address))
        invoice = await request_invoice(node, 21_000, "x", 600)
        assert (await node.lookup(invoice.payment_hash)).state is InvoiceState.PENDING
        await node.aclose()
    assert book.calls == [used, used]


@pytest.mark.anyio
async def test_a_wallet_that_gives_no_state_is_understood_and_a_preimage_settles_nothing(
    setup: Setup, wallet: Wallet, book: Book
) -> None:
    wallet.states = False
    invoice = await request_invoice(setup.node, 21_000, "x", 600)
    assert (await setup.node.lookup(invoice.payment_hash)).state is InvoiceState.PENDING
    book.pay(invoice.bolt11)
    assert (await setup.node.lookup(invoice.payment_hash)).state is InvoiceState.SETTLED
    late = await request_invoice(setup.node, 21_000, "x", 600)
    book.expire(late.payment_hash)
    assert (await setup.node.lookup(late.payment_hash)).state is InvoiceState.EXPIRED


@pytest.mark.anyio
async def test_an_expired_invoice_is_expired(setup: Setup, book: Book) -> None:
    invoice = await request_invoice(setup.node, 21_000, "x", 600)
    book.expire(invoice.payment_hash)
    assert (await setup.node.lookup(invoice.payment_hash)).state is InvoiceState.EXPIRED


# ── trouble ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
async def test_a_relay_that_hangs_up_is_called_again(setup: Setup, relay: Relay) -> None:
    invoice = await request_invoice(setup.node, 21_000, "x", 600)
    for _ in range(3):
        await asyncio.to_thread(relay.hang_up)
        assert (await setup.node.lookup(invoice.payment_hash)).state is InvoiceState.PENDING


@pytest.mark.anyio
async def test_the_next_relay_is_taken_when_one_cannot_be_reached(address: str) -> None:
    url = connection_string("ws://127.0.0.1:1").replace("?relay=", f"?relay=ftp://nonsense&relay={address}&relay=")
    node = node_of(url)
    await request_invoice(node, 21_000, "x", 600)
    await node.aclose()


async def unavailable(node: LightningBackend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with pytest.raises(LightningUnavailable) as from_creating:
        await request_invoice(node, 21_000, "x", 600)
    with pytest.raises(LightningUnavailable) as from_lookup:
        await node.lookup(b"h" * 32)
    await node.aclose()
    told = caplog.text + str(from_creating.value) + str(from_lookup.value)
    assert SERVICE_SECRET.hex() not in told
    assert any(record.name == "fastapi_tollbooth.lightning" for record in caplog.records)


@pytest.mark.anyio
async def test_no_relay_is_unavailability(caplog: pytest.LogCaptureFixture) -> None:
    await unavailable(node_of(connection_string("ws://127.0.0.1:1")), caplog)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "trouble",
    [
        {"silent": True},
        {"error": "INTERNAL"},
        {"error": "RATE_LIMITED"},
        {"error": "UNAUTHORIZED"},
        {"signer": Keys(b"\x05" * 32)},
        {"change": lambda document: document | {"content": document["content"][:-4] + "AAAA"}},
        {"change": lambda document: document | {"sig": "00" * 64}},
        {"change": lambda document: document | {"id": "00" * 32}},
        {"change": lambda document: document | {"tags": [["p", document["tags"][0][1]]]}},
        {"change": lambda document: {"kind": 23_195, "pubkey": WALLET.public.hex(), "tags": document["tags"]}},
        {"answers": lambda _: "not json"},
        {"answers": lambda _: [1]},
        {"answers": lambda _: None},
        {"answers": lambda answer: answer | {"result_type": "pay_invoice"}},
        {"answers": lambda answer: {"result_type": answer["result_type"], "error": None, "result": {}}},
        {"answers": lambda answer: {"result_type": answer["result_type"], "error": "no"}},
    ],
    ids=" ".join,
)
async def test_trouble_of_every_kind_is_unavailability_and_reveals_nothing(
    address: str, wallet: Wallet, trouble: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in trouble.items():
        setattr(wallet, name, value)
    await unavailable(node_of(connection_string(address), timeout=0.3), caplog)


@pytest.mark.anyio
async def test_a_relay_that_takes_no_events_is_unavailability(
    address: str, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    relay.refuse = True
    await unavailable(node_of(connection_string(address)), caplog)


@pytest.mark.anyio
async def test_a_relay_that_hands_on_what_others_wrote_settles_nothing(
    address: str, relay: Relay, wallet: Wallet, caplog: pytest.LogCaptureFixture
) -> None:
    relay.careless, wallet.signer = True, Keys(b"\x05" * 32)
    await unavailable(node_of(connection_string(address), timeout=0.3), caplog)


@pytest.mark.anyio
async def test_what_a_relay_says_besides_is_ignored(setup: Setup, relay: Relay) -> None:
    relay.garbage = [
        "",
        "{",
        "[]",
        "{}",
        "null",
        '["NOTICE", "hello"]',
        '["EVENT"]',
        '["EVENT", "answers", {}]',
        "[" * 9_000,
    ]
    relay.garbage.append(json.dumps(["OK", 5, False]))
    invoice = await request_invoice(setup.node, 21_000, "x", 600)
    assert (await setup.node.lookup(invoice.payment_hash)).state is InvoiceState.PENDING


@pytest.mark.anyio
async def test_an_answer_about_another_payment_is_none(setup: Setup, wallet: Wallet) -> None:
    invoice = await request_invoice(setup.node, 21_000, "x", 600)
    wallet.answers = lambda answer: answer | {"result": answer["result"] | {"type": "outgoing"}}
    with pytest.raises(LightningUnavailable):
        await setup.node.lookup(invoice.payment_hash)
    wallet.answers = lambda answer: answer | {"result": answer["result"] | {"payment_hash": "00" * 32}}
    with pytest.raises(LightningUnavailable):
        await setup.node.lookup(invoice.payment_hash)


@pytest.mark.anyio
async def test_invoices_are_asked_for_once(setup: Setup, wallet: Wallet, relay: Relay) -> None:
    await request_invoice(setup.node, 21_000, "x", 600)
    wallet.silent = True
    before = len(relay.heard)
    setup.node._timeout = 0.2  # type: ignore[attr-defined]
    with pytest.raises(LightningUnavailable):
        await request_invoice(setup.node, 21_000, "x", 600)
    assert len(relay.heard) == before + 1
    assert {tag[0] for tag in relay.heard[-1]["tags"]} >= {"p", "expiration"}


# ── the connection string ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://wallet.example",
        connection_string("https://relay.example"),
        connection_string("wss://relay.example").replace("secret=", "secrets="),
        connection_string("wss://relay.example")[:-2],
        connection_string("wss://relay.example", b"\x00" * 32),
        connection_string("wss://relay.example").replace(WALLET.public.hex(), "ff" * 32),
        connection_string("wss://relay.example").replace("nostr+walletconnect", "https"),
    ],
)
def test_what_is_no_connection_string_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="nostr\\+walletconnect://") as error:
        node_of(url)
    assert SERVICE_SECRET.hex() not in str(error.value)


def test_both_names_of_the_scheme_are_known() -> None:
    node_of(connection_string("wss://relay.example").replace("nostr+", "nostr", 1))
