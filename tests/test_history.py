"""What the ledger remembers of x402 payments."""

from datetime import UTC, datetime, timedelta

import pytest

from fastapi_tollbooth.ledger import operations as ops
from fastapi_tollbooth.ledger.records import Payment, PaymentState
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.money import Asset, Money
from fastapi_tollbooth.rails.x402.accepted import accepted
from fastapi_tollbooth.rails.x402.chain import Transferred
from fastapi_tollbooth.rails.x402.history import Known, abandoned, reader, wanted
from fastapi_tollbooth.settings import X402Settings
from tests.x402_payer import PAY_TO, PAYER

pytestmark = pytest.mark.anyio

NONCE = "0x" + "cd" * 32
PLACES = {
    place.network.id: place
    for place in accepted(X402Settings(pay_to=PAY_TO, networks=["base"], facilitator_url="http://x"))
}
TOKEN = PLACES["eip155:8453"].network.token.address.lower()
KEY = f"x402:eip155:8453:{TOKEN}:{PAYER}:{NONCE}"
PRICE = Money(10_000, Asset.USD)
EXPIRES = datetime(2030, 1, 1, tzinfo=UTC)


async def claim(ledger: Ledger, rail: str = "x402", key: str = KEY) -> ops.Claimed:
    payment = Payment(rail, key, PRICE.amount, PRICE.asset, PAYER, expires_at=EXPIRES)
    outcome = (await ledger.apply(ops.Claim(payment, key, PRICE, "/x")))[-1]
    assert isinstance(outcome, ops.Claimed)
    return outcome


async def test_a_payment_is_read_as_it_was_written(url: str) -> None:
    ledger = Ledger(url)
    assert await ledger.read(reader(KEY)) is None
    claimed = await claim(ledger)
    known = await ledger.read(reader(KEY))
    assert known is not None
    assert known[:5] == (PaymentState.CLAIMED, claimed.toll, PRICE, None, EXPIRES)
    assert datetime.now(UTC) - known.updated_at < timedelta(minutes=1)
    await ledger.close()


async def test_what_nobody_works_on_is_found(url: str) -> None:
    ledger = Ledger(url)
    claimed, _ = await claim(ledger), await claim(ledger, "other", "other:1")
    hour, nothing = timedelta(hours=1), timedelta(0)

    async def found(claims: timedelta, settling: timedelta) -> list[str]:
        return [known.state for _, known in await ledger.read(abandoned(claims, settling))]

    assert await found(hour, hour) == []
    assert await found(nothing, hour) == ["claimed"]
    await ledger.apply(ops.BeginSettlement(KEY, claimed.toll))
    assert await found(nothing, hour) == []
    assert await found(hour, nothing) == ["settling"]
    await ledger.apply(ops.EndClaim(KEY, claimed.toll, PaymentState.UNKNOWN))
    assert await found(hour, hour) == ["unknown"]
    await ledger.apply(ops.CompleteSettlement(KEY, "0x1", PRICE))
    assert await found(nothing, nothing) == []
    await ledger.close()


def test_what_to_look_for_is_in_the_name_of_a_payment() -> None:
    known = Known(PaymentState.UNKNOWN, 1, PRICE, None, EXPIRES, EXPIRES, None)
    found = wanted(KEY, known, PLACES)
    assert found == (PLACES["eip155:8453"], Transferred(TOKEN, PAYER, NONCE, PAY_TO, 10_000))
    assert wanted(KEY.replace("8453", "1"), known, PLACES) is None
    assert wanted(KEY.replace(TOKEN, PAYER), known, PLACES) is None
    assert wanted("x402:solana:abc:mint:payer:digest", known, PLACES) is None
