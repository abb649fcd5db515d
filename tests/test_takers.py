"""Settling with a taker that answers, refuses, or does not know. What a response does then: `test_settlement.py`."""

import asyncio
from typing import Any

import pytest

from fastapi_tollbooth import Money, PaymentRequired, Toll
from fastapi_tollbooth.errors import CredentialRefused, TollClosed, Unavailable
from fastapi_tollbooth.rails import Receipt
from fastapi_tollbooth.takers import Takers
from fastapi_tollbooth.toll import State

pytestmark = pytest.mark.anyio
CENT = Money.parse("$0.01")


class Taker:
    """Who answers as it is told, and notes what it was asked and what came of it."""

    name = "taker"
    settles_elsewhere = False

    def __init__(self, error: Exception | None = None, void_error: Exception | None = None) -> None:
        self.calls: list[str] = []
        self.paid: list[Toll] = []
        self.unpaid: list[str] = []
        self._errors: dict[str, Any] = {"hold": error, "capture": error, "void": void_error}

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if self._errors[what] is not None:
            raise self._errors[what]

    async def hold(self, toll: Toll) -> Receipt:
        self._called("hold")
        return Receipt((("X-Held", "1"),))

    async def capture(self, toll: Toll) -> Receipt:
        self._called("capture")
        return Receipt((("X-Paid", "1"),))

    async def void(self, toll: Toll) -> None:
        self._called("void")


def takers(taker: Taker) -> Takers:
    return Takers([taker], taker.paid.append, taker.unpaid.append)


def toll() -> Toll:
    return Toll("7", CENT, CENT, None, "payer", "taker", "/")


async def test_a_toll_that_is_captured_twice_at_once_is_paid_once() -> None:
    taker, of, asked = Taker(), toll(), asyncio.Event()

    async def capture(toll: Toll) -> Receipt:
        await asked.wait()
        return await Taker.capture(taker, toll)

    taker.capture = capture  # type: ignore[method-assign]
    settling = takers(taker)
    # As its deadline comes near, and as its last byte is handed over.
    both = [asyncio.create_task(settling.capture(of)) for _ in range(2)]
    await asyncio.sleep(0)
    asked.set()
    assert [(await each).headers for each in both] == 2 * [(("X-Paid", "1"),)]
    assert (of.state, taker.paid) == (State.CAPTURED, [of])


async def test_a_toll_is_held_and_captured_once() -> None:
    taker, of = Taker(), toll()
    settling = takers(taker)
    assert (await settling.hold(of)).headers == (("X-Held", "1"),)
    assert of.is_open
    assert (await settling.capture(of)).headers == (("X-Paid", "1"),)
    assert of.state is State.CAPTURED
    await settling.hold(of)
    await settling.capture(of)
    await settling.void(of)
    assert taker.calls == ["hold", "capture"]
    assert (taker.paid, taker.unpaid) == ([of], [])


async def test_what_is_used_while_a_toll_is_captured_is_refused_and_not_given_away() -> None:
    class Slow(Taker):
        async def capture(self, toll: Toll) -> Receipt:
            with pytest.raises(TollClosed):
                toll.use("$0.001")
            return Receipt((("X-Paid", str(toll.charge)),))

    of = Toll("7", CENT, CENT, None, "payer", "taker", "/", metered=True)
    of.use("$0.002")
    assert (await takers(Slow()).capture(of)).headers == (("X-Paid", "$0.002"),)
    assert of.cost == Money.parse("$0.002")


@pytest.mark.parametrize("how", ["hold", "capture"])
async def test_money_that_does_not_come_voids_the_toll(how: str) -> None:
    taker, of = Taker(CredentialRefused("settlement_failed", "No.", members={"why": "funds"})), toll()
    with pytest.raises(PaymentRequired) as refused:
        await getattr(takers(taker), how)(of)
    assert (refused.value.reason, refused.value.members["price"], refused.value.members["why"]) == (
        "settlement_failed",
        "$0.01",
        "funds",
    )
    assert taker.calls[-1] == "void"
    assert (taker.paid, taker.unpaid) == ([], ["payer"])
    assert of.state is State.VOIDED


@pytest.mark.parametrize("how", ["hold", "capture"])
async def test_what_is_unknown_leaves_the_toll_open(how: str) -> None:
    taker, of = Taker(Unavailable("settlement_unknown", "Wait.")), toll()
    with pytest.raises(Unavailable):
        await getattr(takers(taker), how)(of)
    assert of.is_open
    assert (taker.paid, taker.unpaid) == ([], [])


async def test_a_void_that_fails_leaves_the_toll_to_the_sweeper(caplog: pytest.LogCaptureFixture) -> None:
    of = toll()
    await takers(Taker(void_error=Unavailable("ledger_unavailable", "No."))).void(of)
    assert of.is_open
    assert "ledger_unavailable" in caplog.text
