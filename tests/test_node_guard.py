"""A slow node: requests do not pile up on it."""

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from fastapi_tollbooth.lightning import (
    Capabilities,
    InvoiceState,
    InvoiceStatus,
    LightningUnavailable,
    UncheckedInvoice,
)
from fastapi_tollbooth.rails.node_guard import LOOK_UPS, NEW_INVOICES, GuardedNode


@dataclass
class SlowNode:
    """A node that answers when the test lets it."""

    capabilities: Capabilities = field(default_factory=Capabilities)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0
    at_once: int = 0
    most: int = 0

    async def _wait(self) -> None:
        self.asked += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await self.open.wait()
        finally:
            self.at_once -= 1

    async def create_invoice(
        self, amount_msat: int, description: str, expiry_seconds: int, external_id: str | None = None
    ) -> UncheckedInvoice:
        await self._wait()
        raise LightningUnavailable("never mind")

    async def lookup(self, payment_hash: bytes) -> InvoiceStatus:
        await self._wait()
        return InvoiceStatus(InvoiceState.SETTLED)

    async def aclose(self) -> None:
        return None


@pytest.mark.anyio
async def test_so_many_questions_at_a_time_and_the_rest_is_told_at_once() -> None:
    node = SlowNode()
    guarded = GuardedNode(node)
    crowd = [asyncio.create_task(guarded.create_invoice(1_000, str(number), 600)) for number in range(1_000)]
    started = time.perf_counter()
    refused = await asyncio.gather(*crowd[NEW_INVOICES:], return_exceptions=True)
    assert time.perf_counter() - started < 2
    assert all(isinstance(error, LightningUnavailable) for error in refused)
    assert node.most == node.asked == NEW_INVOICES
    node.open.set()
    await asyncio.gather(*crowd, return_exceptions=True)
    assert node.at_once == 0


@pytest.mark.anyio
async def test_those_who_want_to_pay_do_not_take_the_places_of_those_who_have_paid() -> None:
    node = SlowNode()
    guarded = GuardedNode(node)
    crowd = [asyncio.create_task(guarded.create_invoice(1_000, "", 600)) for _ in range(100)]
    rechecks = [asyncio.create_task(guarded.recheck(bytes([number]) * 32)) for number in range(100)]
    await asyncio.sleep(0)
    payer = asyncio.create_task(guarded.lookup(b"p" * 32))
    await asyncio.sleep(0.01)
    node.open.set()
    assert (await payer).state is InvoiceState.SETTLED
    await asyncio.gather(*crowd, *rechecks, return_exceptions=True)


@pytest.mark.anyio
async def test_a_crowd_that_asks_for_one_invoice_is_one_question() -> None:
    node = SlowNode()
    guarded = GuardedNode(node)
    crowd = [asyncio.create_task(guarded.lookup(b"p" * 32)) for _ in range(LOOK_UPS * 3)]
    await asyncio.sleep(0)
    node.open.set()
    answers = await asyncio.gather(*crowd)
    assert {answer.state for answer in answers} == {InvoiceState.SETTLED}
    assert node.asked == 1


@pytest.mark.anyio
async def test_a_node_that_does_not_answer_has_its_places_back_in_the_end() -> None:
    node = SlowNode()
    guarded = GuardedNode(node, seconds=0.05)
    for _ in range(2):
        crowd = [guarded.lookup(bytes([number]) * 32) for number in range(LOOK_UPS)]
        results = await asyncio.gather(*crowd, return_exceptions=True)
        assert all(isinstance(error, LightningUnavailable) for error in results)
    assert node.asked == LOOK_UPS * 2
    node.open.set()
    assert (await guarded.lookup(b"p" * 32)).state is InvoiceState.SETTLED
