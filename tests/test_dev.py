import asyncio
import hashlib
from datetime import timedelta
from pathlib import Path

import pytest

from fastapi_tollbooth import ConfigurationError
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.lightning import InvoiceState, bolt11
from fastapi_tollbooth.lightning.dev import CannotPay, DevNode, SharedMark

RING = KeyRing((b"n" * 32,))


@pytest.fixture
async def node(url: str, tmp_path: Path):  # type: ignore[no-untyped-def]
    ledger = Ledger(url)
    yield DevNode(RING, ledger, "development", tmp_path / "mark")
    await ledger.close()


def another_worker(url: str, tmp_path: Path, mark: bool = True) -> tuple[DevNode, Ledger]:
    ledger = Ledger(url)
    return DevNode(RING, ledger, "development", tmp_path / "mark" if mark else None), ledger


@pytest.mark.anyio
async def test_an_invoice_says_what_it_should(node: DevNode) -> None:
    invoice = await node.create_invoice(21_000, "21 sats of weather", 600)
    decoded = bolt11.decode(invoice.bolt11)
    assert decoded.network == "bcrt"
    assert decoded.amount_msat == 21_000
    assert decoded.payment_hash == invoice.payment_hash
    assert decoded.description == "21 sats of weather"
    assert decoded.expires_at - decoded.created_at == timedelta(seconds=600)
    assert len(bolt11.payee(decoded)) == 33


@pytest.mark.anyio
async def test_paying_gives_the_preimage_once_and_settles(node: DevNode) -> None:
    invoice = await node.create_invoice(21_000, "", 600)
    assert (await node.lookup(invoice.payment_hash)).state is InvoiceState.PENDING
    paid = await node.pay(invoice.bolt11)
    assert hashlib.sha256(bytes.fromhex(paid.preimage)).digest() == invoice.payment_hash
    assert paid.preimage not in repr(paid)
    status = await node.lookup(invoice.payment_hash)
    assert status.state is InvoiceState.SETTLED
    assert status.amount_received_msat == 21_000
    assert status.settled_at is not None
    assert status.settled_at.tzinfo is not None
    with pytest.raises(CannotPay, match="already"):
        await node.pay(invoice.bolt11)


@pytest.mark.anyio
@pytest.mark.parametrize("mark", [True, False])
async def test_workers_are_one_node(node: DevNode, url: str, tmp_path: Path, mark: bool) -> None:
    other, ledger = another_worker(url, tmp_path, mark)
    invoice = await node.create_invoice(21_000, "", 600)
    for worker in (node, other):
        assert (await worker.lookup(invoice.payment_hash)).state is InvoiceState.PENDING
    await other.pay(invoice.bolt11)
    for worker in (node, other) if mark else (other,):
        assert (await worker.lookup(invoice.payment_hash)).state is InvoiceState.SETTLED
    with pytest.raises(CannotPay, match="already"):
        await node.pay(invoice.bolt11)
    await ledger.close()


@pytest.mark.anyio
async def test_of_many_who_pay_at_once_one_pays(node: DevNode) -> None:
    invoice = await node.create_invoice(21_000, "", 600)
    results = await asyncio.gather(*(node.pay(invoice.bolt11) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(result, CannotPay) for result in results) == 19


@pytest.mark.anyio
async def test_what_is_not_this_node_s_invoice_cannot_be_paid(node: DevNode) -> None:
    stranger = DevNode(KeyRing((b"s" * 32,)), node._ledger, "development")
    foreign = await stranger.create_invoice(21_000, "", 600)
    for text in (foreign.bolt11, "lnbcrt1nonsense", "", foreign.bolt11[:-1] + "q"):
        with pytest.raises(CannotPay):
            await node.pay(text)
    assert (await node.lookup(foreign.payment_hash)).state is InvoiceState.PENDING


@pytest.mark.anyio
async def test_an_invoice_made_cheaper_cannot_be_paid(node: DevNode) -> None:
    invoice = bolt11.decode((await node.create_invoice(21_000, "", 600)).bolt11)
    cheaper = bolt11.encode(
        network="bcrt",
        amount_msat=1_000,
        payment_hash=invoice.payment_hash,
        payment_secret=invoice.payment_secret or b"",
        description="",
        created_at=int(invoice.created_at.timestamp()),
        expiry_seconds=600,
        private_key=1,
    )
    with pytest.raises(CannotPay, match="not made by"):
        await node.pay(cheaper)


@pytest.mark.anyio
async def test_an_expired_invoice_cannot_be_paid(node: DevNode) -> None:
    invoice = await node.create_invoice(21_000, "", 0)
    with pytest.raises(CannotPay, match="expired"):
        await node.pay(invoice.bolt11)


def test_it_does_not_exist_in_production(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="production"):
        DevNode(RING, Ledger(f"sqlite:///{tmp_path}/ledger.db"), "production")


def test_a_mark_is_seen_by_all_who_share_it(tmp_path: Path) -> None:
    mine, yours, nobodys = SharedMark(tmp_path / "m"), SharedMark(tmp_path / "m"), SharedMark(None)
    before = yours.read()
    assert mine.read() == before
    mine.change()
    assert yours.read() == mine.read() != before
    nobodys.change()
    assert nobodys.read() is None
