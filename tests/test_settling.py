"""The order of steps of one payment, against a facilitator and a ledger that fail in between."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import httpx
import pytest
from sqlalchemy import Connection

from fastapi_tollbooth.errors import Conflict, CredentialRefused, Forbidden, Unavailable
from fastapi_tollbooth.ledger import operations as ops
from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.ledger.records import PaymentState
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.money import Asset, Money
from fastapi_tollbooth.rails.x402.accepted import accepted
from fastapi_tollbooth.rails.x402.order import Order
from fastapi_tollbooth.rails.x402.payments import Asked, read_payment
from fastapi_tollbooth.rails.x402.settling import Settler
from fastapi_tollbooth.settings import X402Settings
from tests.stub_facilitator import StubFacilitator, stub_facilitator
from tests.x402_payer import PAY_TO, payload

T = TypeVar("T")

pytestmark = pytest.mark.anyio

PRICE = Money(10_000, Asset.USD)


class FailingLedger(Ledger):
    """A ledger that cannot write operations of one kind."""

    fails: type | None = None
    cannot_read = False

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Read, or not."""
        if self.cannot_read:
            raise Unavailable("ledger_unavailable", "It is down.")
        return await super().read(query)

    async def apply(self, *operations: ops.Operation) -> list[ops.Outcome]:
        """Write, or not."""
        if self.fails is not None and isinstance(operations[0], self.fails):
            raise Unavailable("ledger_unavailable", "It is down.")
        return await super().apply(*operations)


@pytest.fixture
def stub() -> Iterator[StubFacilitator]:
    with stub_facilitator() as running:
        yield running


@pytest.fixture
async def ledger(url: str) -> AsyncIterator[FailingLedger]:
    opened = FailingLedger(url)
    yield opened
    assert (await opened.read(verify)).discrepancy is None
    await opened.close()


@pytest.fixture
async def settler(ledger: FailingLedger) -> AsyncIterator[Settler]:
    async with httpx.AsyncClient() as client:
        yield Settler(ledger, lambda: client)


def order(stub: StubFacilitator, **changes: Any) -> Order:
    settings = X402Settings(
        pay_to=PAY_TO, networks=["base-sepolia"], facilitator_url=stub.url, rpc_url=f"{stub.url}/rpc"
    )
    place = accepted(settings)[0]
    sent = payload(10_000, **changes)
    wanted = {"network": place.network.id, "asset": place.network.token.address}
    body = {"x402Version": 2, "paymentPayload": {"payload": sent}, "paymentRequirements": wanted}
    payment = read_payment(sent, Asked(place.network, 10_000, PAY_TO))
    return Order(place, payment, PRICE, PRICE, "/x", body, "d1")


async def state(settler: Settler, order: Order) -> PaymentState | None:
    known = await settler.known(order.payment.spend_key)
    return known.state if known else None


async def test_hold_settle_and_nothing_more(stub: StubFacilitator, settler: Settler) -> None:
    paid = order(stub)
    held = await settler.hold(paid)
    with pytest.raises(Conflict):
        await settler.hold(paid)
    assert await settler.deliver(held, PRICE) == f"0x{1:064x}"
    with pytest.raises(Forbidden):
        await settler.hold(paid)
    assert await state(settler, paid) is PaymentState.SETTLED


async def test_a_claim_is_on_disk_before_the_facilitator_is_asked(stub: StubFacilitator, settler: Settler) -> None:
    paid = order(stub)
    held = await settler.hold(paid)
    stub.delay = 0.5
    settling = asyncio.ensure_future(settler.settle(held, PRICE))
    while not stub.calls:
        await asyncio.sleep(0.01)
    assert await state(settler, paid) is PaymentState.SETTLING
    with pytest.raises(Conflict):
        await settler.hold(paid)
    await settling


async def test_what_is_charged_is_delivered_though_its_transaction_cannot_be_looked_up(
    stub: StubFacilitator, settler: Settler, ledger: FailingLedger
) -> None:
    paid = order(stub)
    await settler.let_go(await settler.settle_first(await settler.hold(paid)))
    owed = await settler.hold(paid)
    ledger.cannot_read = True
    assert await settler.deliver(owed, PRICE) == ""
    ledger.cannot_read = False
    with pytest.raises(Forbidden):
        await settler.hold(paid)


async def test_a_payment_that_is_signed_for_ever_keeps_no_other_from_being_looked_after(
    stub: StubFacilitator, url: str
) -> None:
    if url.startswith("postgresql"):
        url += f"{'&' if '?' in url else '?'}options=-c%20timezone%3DPacific/Kiritimati"
    ledger = Ledger(url)
    async with httpx.AsyncClient() as client:
        settler, stub.settle_answer = Settler(ledger, lambda: client), (500, {})
        endless, other = order(stub, validBefore="9" * 77), order(stub)
        for paid in (endless, other):
            with pytest.raises(Unavailable, match="not known"):
                await settler.settle(await settler.hold(paid), PRICE)
        for _ in range(2):
            with pytest.raises(Unavailable, match="not known"):
                await settler.hold(endless)
        stub.settle_answer = None
        stub._settle(other.body)
        assert await settler.reconcile({other.accepted.network.id: other.accepted}, timedelta(0)) == 1
        assert await state(settler, endless) is PaymentState.UNKNOWN
        assert await state(settler, other) is PaymentState.SETTLED
    await ledger.close()


async def test_if_the_ledger_cannot_begin_nobody_is_asked(
    stub: StubFacilitator, settler: Settler, ledger: FailingLedger
) -> None:
    held = await settler.hold(order(stub))
    ledger.fails = ops.BeginSettlement
    with pytest.raises(Unavailable):
        await settler.deliver(held, PRICE)
    assert stub.calls == []


async def test_money_that_came_while_the_ledger_was_down_is_owed(
    stub: StubFacilitator, settler: Settler, ledger: FailingLedger
) -> None:
    paid = order(stub)
    held = await settler.hold(paid)
    ledger.fails = ops.CompleteSettlement
    with pytest.raises(Unavailable) as lost:
        await settler.deliver(held, PRICE)
    assert lost.value.reason == "settlement_unknown"
    ledger.fails = None
    await ledger.close()  # which writes what is owed
    again = await settler.hold(paid)
    assert again.settled
    assert await settler.deliver(again, PRICE) == f"0x{1:064x}"
    assert len(stub.transfers) == 1


async def test_a_request_that_is_cancelled_while_its_money_moves_leaves_it_owed(
    stub: StubFacilitator, settler: Settler
) -> None:
    paid = order(stub)
    held = await settler.hold(paid)
    stub.delay = 0.3
    request = asyncio.ensure_future(settler.settle_first(held))
    while not stub.calls:
        await asyncio.sleep(0.01)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(Conflict):
                again = await settler.hold(paid)
                break
            await asyncio.sleep(0.02)
    assert again.settled
    assert len(stub.transfers) == 1


async def test_no_copy_of_a_payment_gets_between_its_settlement_and_its_request(
    stub: StubFacilitator, settler: Settler
) -> None:
    paid = order(stub)
    settling = asyncio.ensure_future(settler.settle_first(await settler.hold(paid)))
    while not settling.done():
        with pytest.raises(Conflict):
            await settler.hold(paid)
    held = await settling
    assert held.settled
    with pytest.raises(Conflict):
        await settler.hold(paid)
    assert await settler.deliver(held, PRICE) == f"0x{1:064x}"


async def test_a_response_that_is_out_is_charged_though_its_toll_was_given_up(
    stub: StubFacilitator, settler: Settler, ledger: FailingLedger
) -> None:
    paid = order(stub)
    held = await settler.settle_first(await settler.hold(paid))
    await ledger.apply(ops.Void(held.account_id, held.toll))
    with pytest.raises(Unavailable):
        await settler.deliver(held, PRICE)
    await settler.deliver(held, PRICE, served=True)
    with pytest.raises(CredentialRefused):
        await settler.hold(paid)


@pytest.mark.parametrize("settled", [False, True])
async def test_a_claim_whose_request_was_cancelled_meanwhile_is_taken_back(
    stub: StubFacilitator, settler: Settler, ledger: FailingLedger, settled: bool
) -> None:
    paid = order(stub)
    if settled:
        await settler.let_go(await settler.settle_first(await settler.hold(paid)))
    claiming = asyncio.ensure_future(settler.hold(paid))
    await asyncio.sleep(0)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    await asyncio.sleep(0.05)
    await ledger.close()  # which writes what is owed
    assert (await settler.hold(paid)).settled is settled


async def test_an_authorization_that_lapsed_unused_is_given_up_for_good(
    stub: StubFacilitator, settler: Settler, ledger: FailingLedger
) -> None:
    long_ago = str(int(time.time()) - 600)
    paid = order(stub, validBefore=long_ago)
    held = await settler.hold(paid)
    stub.settle_answer = 500, {}
    with pytest.raises(Unavailable):
        await settler.deliver(held, PRICE)
    with pytest.raises(CredentialRefused) as refused:
        await settler.hold(paid)
    assert refused.value.members == {"settlementReason": "authorization_expired"}


async def test_retries_that_come_together_ask_once(stub: StubFacilitator, settler: Settler) -> None:
    paid = order(stub)
    held = await settler.hold(paid)
    stub.lose_settle_answer = True
    with pytest.raises(Unavailable):
        await settler.deliver(held, PRICE)
    stub.delay = 0.2
    answers = await asyncio.gather(*(settler.hold(paid) for _ in range(5)), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["Conflict"] * 4 + ["Held"]
    assert (stub.count("/settle"), len(stub.transfers)) == (2, 1)
