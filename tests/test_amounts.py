"""Money to atomic units: exact, or an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth import Asset, ConfigurationError, Money
from fastapi_tollbooth.errors import RailUnavailable
from fastapi_tollbooth.money import MAX_AMOUNT, Rate
from fastapi_tollbooth.rails.x402.amounts import atomic_amount, can_express


@pytest.mark.parametrize(
    ("price", "decimals", "atomic"),
    [("$0.01", 6, 10_000), ("$0.000001", 6, 1), ("$1", 18, 10**18), ("$0.01", 2, 1), ("$12", 0, 12)],
)
def test_the_amount_is_exact(price: str, decimals: int, atomic: int) -> None:
    assert atomic_amount(Money.parse(price), decimals, None) == atomic


@pytest.mark.parametrize(("price", "decimals"), [("$0.001", 2), ("$0.5", 0), ("$0", 6), ("$1.000001", 5)])
def test_what_a_token_cannot_express_is_refused_and_never_truncated(price: str, decimals: int) -> None:
    with pytest.raises(ConfigurationError, match="cannot be paid"):
        atomic_amount(Money.parse(price), decimals, None)


def test_a_price_in_bitcoin_is_exchanged_upwards() -> None:
    assert atomic_amount(Money.parse("1 sat"), 6, Rate.parse("100000")) == 1_000
    assert atomic_amount(Money.parse("1 msat"), 6, Rate.parse("100000.000001")) == 2


def test_a_price_in_bitcoin_without_a_rate_cannot_be_offered() -> None:
    with pytest.raises(RailUnavailable):
        atomic_amount(Money.parse("1 sat"), 6, None)


@given(st.integers(1, MAX_AMOUNT), st.integers(0, 36))
def test_an_amount_is_worth_the_price_or_is_not_made(micro: int, decimals: int) -> None:
    try:
        atomic = atomic_amount(Money(micro, Asset.USD), decimals, None)
    except ConfigurationError:
        return
    assert atomic > 0
    assert atomic * 10**6 == micro * 10**decimals


@pytest.mark.parametrize(
    ("price", "decimals", "can"),
    [("$0.01", 2, True), ("$0.001", 2, False), ("1 msat", 6, True), ("1000 sat", 2, False), ("$1000", 36, False)],
)
def test_what_a_token_can_express_is_known_beforehand(price: str, decimals: int, can: bool) -> None:
    assert can_express(Money.parse(price), decimals) is can
