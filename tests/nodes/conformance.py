"""What every Lightning backend keeps, whichever node is behind it. Run over a fixture ``setup``."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from fastapi_tollbooth.lightning import InvoiceState, LightningBackend, LightningUnavailable, bolt11
from fastapi_tollbooth.lightning.checking import request_invoice
from fastapi_tollbooth.money import Money, Rate
from fastapi_tollbooth.rails.purchase import purchase


@dataclass
class Setup:
    """A backend under test, and somebody who can pay its invoices."""

    node: LightningBackend
    granularity_msat: int
    pay: Callable[[str], Awaitable[object]]
    with_key: Callable[[str], LightningBackend]
    """The same node's backend with another key."""
    settle_seconds: float = 0.0


@pytest.mark.anyio
async def test_an_invoice_says_what_was_asked_for(setup: Setup) -> None:
    invoice = await request_invoice(setup.node, 21_000, "svc: 21 sat credit", 600)
    said = bolt11.decode(invoice.bolt11)
    assert said.amount_msat == invoice.amount_msat == 21_000
    assert said.payment_hash == invoice.payment_hash
    assert said.description == "svc: 21 sat credit"
    assert said.expires_at == invoice.expires_at
    assert abs(invoice.expires_at - datetime.now(UTC) - timedelta(seconds=600)) < timedelta(seconds=10)


@pytest.mark.anyio
async def test_an_invoice_is_pending_until_it_is_paid_and_then_settled(setup: Setup) -> None:
    invoice = await request_invoice(setup.node, 21_000, "x", 600)
    status = await setup.node.lookup(invoice.payment_hash)
    assert (status.state, status.amount_received_msat, status.settled_at) == (InvoiceState.PENDING, None, None)
    await setup.pay(invoice.bolt11)
    status = await setup.node.lookup(invoice.payment_hash)
    assert (status.state, status.amount_received_msat) == (InvoiceState.SETTLED, 21_000)
    assert status.settled_at is not None
    assert abs(status.settled_at - datetime.now(UTC)) < timedelta(seconds=30)


@pytest.mark.anyio
async def test_an_invoice_that_the_node_does_not_know_is_unknown(setup: Setup) -> None:
    assert (await setup.node.lookup(secrets.token_bytes(32))).state is InvoiceState.UNKNOWN
    await request_invoice(setup.node, 21_000, "x", 600)
    assert (await setup.node.lookup(secrets.token_bytes(32))).state is InvoiceState.UNKNOWN


@pytest.mark.anyio
@pytest.mark.parametrize("rate", ["100000", "0.01", "97123.5", "99999999"])
async def test_the_smallest_price_at_any_rate_is_an_invoice_of_at_least_a_satoshi(setup: Setup, rate: str) -> None:
    _, amount_msat = purchase(1, Money.parse("$0.0001"), Rate.parse(rate))
    invoice = await request_invoice(setup.node, amount_msat, "x", 600)
    assert bolt11.decode(invoice.bolt11).amount_msat == invoice.amount_msat
    assert invoice.amount_msat >= max(1_000, amount_msat)


@pytest.mark.anyio
@pytest.mark.parametrize("amount_msat", [0, 1, 999, 1_001])
async def test_amounts_are_rounded_up_to_what_the_node_can_ask_for(setup: Setup, amount_msat: int) -> None:
    assert setup.node.capabilities.granularity_msat == setup.granularity_msat
    invoice = await request_invoice(setup.node, amount_msat, "x", 600)
    assert invoice.amount_msat >= max(1, amount_msat)
    assert invoice.amount_msat - amount_msat < setup.granularity_msat or amount_msat == 0
    assert bolt11.decode(invoice.bolt11).amount_msat == invoice.amount_msat


@pytest.mark.anyio
async def test_an_external_id_and_any_description_are_accepted(setup: Setup) -> None:
    external_id = secrets.token_hex(8)
    invoice = await request_invoice(setup.node, 21_000, "é & 漢字 100% + " * 40, 600, external_id=external_id)
    assert (await setup.node.lookup(invoice.payment_hash)).state is InvoiceState.PENDING


@pytest.mark.anyio
async def test_many_are_asked_for_at_once(setup: Setup) -> None:
    invoices = await asyncio.gather(*(request_invoice(setup.node, 1_000 * n, "x", 600) for n in range(1, 16)))
    assert len({invoice.payment_hash for invoice in invoices}) == 15
    states = await asyncio.gather(*(setup.node.lookup(invoice.payment_hash) for invoice in invoices))
    assert {status.state for status in states} == {InvoiceState.PENDING}


@pytest.mark.anyio
async def test_a_closed_backend_opens_again_when_it_is_asked(setup: Setup) -> None:
    invoice = await request_invoice(setup.node, 21_000, "x", 600)
    await setup.node.aclose()
    await setup.node.aclose()
    assert (await setup.node.lookup(invoice.payment_hash)).state is InvoiceState.PENDING


@pytest.mark.anyio
async def test_a_wrong_key_is_told_to_the_owner_and_not_in_the_open(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    wrong = "badbadbadbad" * 4
    stranger = setup.with_key(wrong)
    with pytest.raises(LightningUnavailable) as error:
        await request_invoice(stranger, 21_000, "x", 600)
    await stranger.aclose()
    assert any(record.name == "fastapi_tollbooth.lightning" for record in caplog.records)
    assert wrong not in caplog.text + str(error.value) + repr(error.value) + repr(stranger) + repr(vars(stranger))


CONFORMANCE = [value for name, value in sorted(globals().items()) if name.startswith("test_")]
