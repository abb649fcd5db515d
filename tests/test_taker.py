"""Settling with a taker that answers, refuses, or does not know. What a response does then: `test_settlement.py`."""

from typing import Any

import pytest

from fastapi_tollbooth import Money, PaymentRequired, Toll
from fastapi_tollbooth.errors import CredentialRefused, Unavailable
from fastapi_tollbooth.rails import Receipt
from fastapi_tollbooth.taker import capture, hold, void
from fastapi_tollbooth.toll import State

pytestmark = pytest.mark.anyio
CENT = Money.parse("$0.01")


class Taker:
    name = "taker"
    settles_elsewhere = False

    def __init__(self, error: Exception | None = None, void_error: Exception | None = None) -> None:
        self.calls: list[str] = []
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


def toll() -> Toll:
    return Toll("7", CENT, CENT, None, "payer", "taker", "/")


def no_one(payer: str) -> None:
    raise AssertionError(f"{payer} has paid, or may have")


async def test_a_toll_is_held_and_captured() -> None:
    taker, of = Taker(), toll()
    assert (await hold(taker, of, no_one)).headers == (("X-Held", "1"),)
    assert of.is_open
    assert (await capture(taker, of, no_one)).headers == (("X-Paid", "1"),)
    assert taker.calls == ["hold", "capture"]
    assert of.state is State.CAPTURED


@pytest.mark.parametrize("settle", [hold, capture])
async def test_money_that_does_not_come_voids_the_toll(settle: Any) -> None:
    taker, of = Taker(CredentialRefused("settlement_failed", "No.", members={"why": "funds"})), toll()
    unpaid: list[str] = []
    with pytest.raises(PaymentRequired) as refused:
        await settle(taker, of, unpaid.append)
    assert (refused.value.reason, refused.value.members["price"], refused.value.members["why"]) == (
        "settlement_failed",
        "$0.01",
        "funds",
    )
    assert taker.calls[-1] == "void"
    assert unpaid == ["payer"]
    assert of.state is State.VOIDED


@pytest.mark.parametrize("settle", [hold, capture])
async def test_what_is_unknown_leaves_the_toll_open(settle: Any) -> None:
    taker, of = Taker(Unavailable("settlement_unknown", "Wait.")), toll()
    with pytest.raises(Unavailable):
        await settle(taker, of, no_one)
    assert of.is_open


async def test_a_void_that_fails_leaves_the_toll_to_the_sweeper(caplog: pytest.LogCaptureFixture) -> None:
    of = toll()
    await void(Taker(void_error=Unavailable("ledger_unavailable", "No.")), of)
    assert of.is_open
    assert "ledger_unavailable" in caplog.text
