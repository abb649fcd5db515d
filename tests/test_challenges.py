from typing import Any

import pytest

from fastapi_tollbooth import Money, PaymentRequired
from fastapi_tollbooth.challenges import NO_CREDENTIAL, payment_required
from fastapi_tollbooth.errors import CredentialRefused, RailUnavailable, TooManyChallenges, TooManyRequests, Unavailable
from fastapi_tollbooth.testing import FakeTollbooth
from fastapi_tollbooth.toll import Quote

CENT = Quote(Money.parse("$0.01"), "/x", "203.0.113.7")


@pytest.fixture
def fake() -> FakeTollbooth:
    return FakeTollbooth()


@pytest.mark.anyio
async def test_every_rail_offers_its_way_to_pay(fake: FakeTollbooth) -> None:
    refusal = await payment_required([fake.rail, fake.rail], CENT, NO_CREDENTIAL)
    assert isinstance(refusal, PaymentRequired)
    assert [name for name, _ in refusal.raw_headers].count(b"www-authenticate") == 2
    assert refusal.members["price"] == "$0.01"


@pytest.mark.anyio
async def test_a_rail_that_cannot_offer_is_left_out_and_without_any_there_is_no_402(
    fake: FakeTollbooth, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*_: Any) -> Any:
        raise RailUnavailable("down")

    dead = FakeTollbooth().rail
    monkeypatch.setattr(dead, "challenge", down)
    refusal = await payment_required([dead, fake.rail], CENT, NO_CREDENTIAL)
    assert [name for name, _ in refusal.raw_headers].count(b"www-authenticate") == 1
    nothing = await payment_required([dead], CENT, NO_CREDENTIAL)
    assert isinstance(nothing, Unavailable)
    assert nothing.reason == "no_rail_available"


@pytest.mark.anyio
async def test_a_rail_that_has_made_enough_challenges_is_left_out_and_alone_it_is_a_429(
    fake: FakeTollbooth, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def limited(*_: Any) -> Any:
        raise TooManyChallenges("enough", retry_after=7)

    busy = FakeTollbooth().rail
    monkeypatch.setattr(busy, "challenge", limited)
    refusal = await payment_required([busy, fake.rail], CENT, NO_CREDENTIAL)
    assert isinstance(refusal, PaymentRequired)
    alone = await payment_required([busy, busy], CENT, NO_CREDENTIAL)
    assert isinstance(alone, TooManyRequests)
    assert alone.reason == "too_many_invoices"
    assert (b"retry-after", b"7") in alone.raw_headers


@pytest.mark.anyio
async def test_only_the_refusing_rail_hears_of_the_credential(
    fake: FakeTollbooth, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, heard = FakeTollbooth().rail, dict[str, Any]()
    for name, rail in (("refusing", fake.rail), ("other", other)):
        challenge = rail.challenge

        async def listen(quote: Quote, presented: Any, name: str = name, challenge: Any = challenge) -> Any:
            heard[name] = presented
            return await challenge(quote, presented)

        monkeypatch.setattr(rail, "challenge", listen)
    why = CredentialRefused("spent", "It was spent.", members={"balance": "$0.00"})
    refusal = await payment_required([other, fake.rail], CENT, why, fake.rail, "credential")
    assert heard == {"other": None, "refusing": "credential"}
    assert (refusal.reason, refusal.members["balance"]) == ("spent", "$0.00")
