from pathlib import Path
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from fastapi_tollbooth import FreeTier, Money, TollboothSettings
from fastapi_tollbooth.admission import Admission
from fastapi_tollbooth.background import Background
from fastapi_tollbooth.errors import TooManyRequests
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.terms import RateLimit, Terms
from fastapi_tollbooth.toll import Quote, State

PRICE = Quote(Money.parse("$0.01"), "/x", "203.0.113.1")
ONCE = Terms(rate_limit=RateLimit.parse("1/hour"))


def admission(tmp_path: Path, free_tier: FreeTier | None = None, **settings: Any) -> Admission:
    url = f"sqlite:///{tmp_path}/t.db"
    read = TollboothSettings(_env_file=None, database_url=url, **settings)
    return Admission(read, Ledger(url), lambda: KeyRing((b"s" * 32,)), Background(), free_tier)


@pytest.mark.anyio
async def test_the_limit_of_a_route_stands_in_for_the_default(tmp_path: Path) -> None:
    gate = admission(tmp_path, free_rate_limit="2/hour")
    free = PRICE._replace(price=Money.parse("$0"))
    for _ in range(2):
        assert (await gate.free(free)).state is State.FREE
    with pytest.raises(TooManyRequests):
        await gate.free(free)
    await gate.free(free._replace(terms=ONCE))
    with pytest.raises(TooManyRequests):
        await gate.free(free._replace(terms=ONCE))
    await gate.free(free._replace(terms=ONCE, route="/y"))
    await gate.counts.flush()


@pytest.mark.anyio
async def test_a_client_within_its_free_tier_is_limited_too(tmp_path: Path) -> None:
    gate = admission(tmp_path, FreeTier(requests=5), free_rate_limit="1/hour")
    toll = await gate.within_free_tier(PRICE)
    assert toll is not None
    assert (toll.rail, toll.amount, toll.is_open) == ("free", Money.parse("$0"), True)
    with pytest.raises(TooManyRequests):
        await gate.within_free_tier(PRICE)


@pytest.mark.anyio
async def test_without_a_free_tier_nothing_is_free(tmp_path: Path) -> None:
    gate = admission(tmp_path)
    assert await gate.within_free_tier(PRICE) is None
    assert not gate.free_uses.covers(PRICE)


@pytest.mark.anyio
async def test_payers_are_limited_by_route_and_the_unpaid_by_client(tmp_path: Path) -> None:
    gate = admission(tmp_path, unpaid_rate_limit="1/hour")
    for _ in range(3):
        await gate.limit_paid(PRICE, "payer")
    limited = PRICE._replace(terms=ONCE)
    for quote, payer in ((limited, "a"), (limited, "b"), (limited._replace(route="/y"), "a")):
        await gate.limit_paid(quote, payer)
    with pytest.raises(TooManyRequests):
        await gate.limit_paid(limited._replace(client="203.0.113.2"), "a")
    await gate.limit_unpaid(PRICE)
    await gate.limit_unpaid(PRICE._replace(client="203.0.113.2"))
    with pytest.raises(TooManyRequests):
        await gate.limit_unpaid(PRICE._replace(route="/z"))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("client", "headers", "warned"),
    [
        ("172.17.0.1", [(b"x-forwarded-for", b"203.0.113.1")], True),
        ("172.17.0.1", [], False),
        ("8.8.8.8", [(b"x-forwarded-for", b"203.0.113.1")], False),
        ("user:alice", [(b"x-forwarded-for", b"203.0.113.1")], False),
    ],
)
async def test_a_proxy_that_nobody_trusts_is_pointed_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, client: str, headers: list[tuple[bytes, bytes]], warned: bool
) -> None:
    gate = admission(tmp_path, unpaid_rate_limit="1/hour")
    quote = PRICE._replace(client=client, connection=HTTPConnection({"type": "http", "headers": headers}))
    await gate.limit_unpaid(quote)
    for _ in range(3):
        with pytest.raises(TooManyRequests):
            await gate.limit_unpaid(quote)
    assert caplog.text.count("looks like a proxy that is not trusted") == warned
