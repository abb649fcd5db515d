"""The exchange rate: what several tickers agree on, and how long it is believed."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth import ConfigurationError
from fastapi_tollbooth.money import Rate
from fastapi_tollbooth.rates import FixedRate, MedianRate, agreement


class Exchange:
    """A ticker that says what the test tells it."""

    def __init__(self, price: str | None) -> None:
        self.price = price

    async def __call__(self) -> Rate:
        if self.price is None:
            raise OSError("down")
        return Rate.parse(self.price)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def source(*prices: str | None) -> tuple[MedianRate, list[Exchange], Clock]:
    exchanges, clock = [Exchange(price) for price in prices], Clock()
    tickers = {str(number): exchange for number, exchange in enumerate(exchanges)}
    return MedianRate(tickers, max_age=900, max_spread=0.03, clock=clock), exchanges, clock


@pytest.mark.parametrize(
    ("prices", "agreed"),
    [
        (["100000", "100100", "100200"], "100100"),
        (["100000", "101000"], "100000"),
        (["100000", "101000", "1"], "100000"),  # one that is wrong is outvoted
        (["100000", "101000", "900000"], "100000"),
        (["100000", "110000"], None),
        (["100000", "110000", "120000"], None),
        (["100000"], None),
        ([], None),
    ],
)
def test_what_tickers_agree_on(prices: list[str], agreed: str | None) -> None:
    assert agreement([Rate.parse(price) for price in prices], 0.03) == (Rate.parse(agreed) if agreed else None)


@given(st.lists(st.builds(Rate, st.integers(1, 2**63 - 1)), max_size=6))
def test_an_agreed_rate_is_one_that_somebody_gave_and_somebody_else_is_near(rates: list[Rate]) -> None:
    agreed = agreement(rates, 0.03)
    if agreed is not None:
        assert agreed in rates
        near = [rate for rate in rates if abs(rate.micro_usd_per_btc / agreed.micro_usd_per_btc - 1) < 0.07]
        assert len(near) >= 2


@pytest.mark.anyio
async def test_there_is_no_rate_before_the_tickers_were_asked() -> None:
    rates, _, _ = source("100000", "100000")
    assert rates.current() is None
    await rates.refresh()
    assert rates.current() == Rate.parse("100000")


@pytest.mark.anyio
async def test_the_last_good_rate_is_used_while_it_is_fresh_and_not_a_second_longer() -> None:
    rates, exchanges, clock = source("100000", "100000", "100000")
    await rates.refresh()
    for exchange in exchanges:
        exchange.price = None
    clock.now += 899
    await rates.refresh()
    assert rates.current() == Rate.parse("100000")
    clock.now += 1
    assert rates.current() is None
    exchanges[0].price = exchanges[1].price = "120000"
    await rates.refresh()
    assert rates.current() == Rate.parse("120000")


@pytest.mark.anyio
async def test_tickers_that_fall_out_do_not_move_the_rate() -> None:
    rates, exchanges, clock = source("100000", "100100")
    await rates.refresh()
    exchanges[1].price = "200000"
    clock.now += 60
    await rates.refresh()
    assert rates.current() == Rate.parse("100000")


@pytest.mark.anyio
async def test_a_ticker_that_hangs_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_tollbooth.rates.TIMEOUT_SECONDS", 0.05)

    async def hangs() -> Rate:
        await asyncio.sleep(60)
        return Rate.parse("1")

    tickers: dict[str, Callable[[], Awaitable[Rate]]] = {"a": Exchange("100000"), "b": Exchange("100000"), "c": hangs}
    rates = MedianRate(tickers)
    await asyncio.wait_for(rates.refresh(), 2)
    assert rates.current() == Rate.parse("100000")


@pytest.mark.anyio
async def test_keeping_fresh_asks_again_and_again() -> None:
    exchanges = [Exchange("100000"), Exchange("100000")]
    rates = MedianRate({"a": exchanges[0], "b": exchanges[1]}, every=0.01)
    task = asyncio.create_task(rates.keep_fresh())
    for price in ("100000", "101000"):
        exchanges[0].price = exchanges[1].price = price
        async with asyncio.timeout(2):
            while rates.current() != Rate.parse(price):
                await asyncio.sleep(0.005)
    task.cancel()


def test_one_ticker_is_not_enough() -> None:
    with pytest.raises(ConfigurationError, match="two"):
        MedianRate({"only": Exchange("1")})


@pytest.mark.anyio
async def test_a_fixed_rate_is_what_was_written() -> None:
    fixed = FixedRate(Rate.parse("97123.5"))
    await fixed.keep_fresh()
    assert fixed.current() == Rate.parse("97123.5")
    assert FixedRate(None).current() is None
