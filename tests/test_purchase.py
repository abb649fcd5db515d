import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.errors import RailUnavailable
from fastapi_tollbooth.money import Rate
from fastapi_tollbooth.rails.purchase import purchase

RATE = Rate.parse("100000")


@pytest.mark.parametrize(
    ("top_up", "price", "credit", "sats"),
    [
        (1, "$0.01", "$0.01", 10),
        (10, "$0.01", "$0.10", 100),
        (10, "21 sat", "210 sat", 210),
        (1, "$0.0001", "$0.001", 1),  # one satoshi is the least that can be paid, and is worth ten such requests
        (1, "500 msat", "1 sat", 1),
        (3, "500 msat", "2 sat", 2),
        ("$1", "$0.01", "$1.00", 1_000),
        ("$1", "$5", "$5.00", 5_000),
        ("1000 sat", "$0.01", "1000 sat", 1_000),
        ("1 sat", "$0.01", "$0.01", 10),
    ],
)
def test_what_one_payment_buys(top_up: int | str, price: str, credit: str, sats: int) -> None:
    bought = Money.parse(top_up) if isinstance(top_up, str) else top_up
    assert purchase(bought, Money.parse(price), RATE) == (Money.parse(credit), sats * 1_000)


@given(
    st.integers(1, 1_000) | st.builds(Money, st.integers(1, 10**9), st.sampled_from(Asset)),
    st.builds(Money, st.integers(1, 10**9), st.sampled_from(Asset)),
    st.builds(Rate, st.integers(10**9, 10**12)),
)
def test_a_payment_covers_the_request_and_what_it_credits(top_up: int | Money, price: Money, rate: Rate) -> None:
    credit, msat = purchase(top_up, price, rate)
    assert msat >= 1_000
    assert msat % 1_000 == 0
    assert rate.convert_up(price, credit.asset) <= credit
    assert rate.convert_up(credit, Asset.BTC).amount <= msat
    if isinstance(top_up, int):
        assert credit.amount >= price.amount * top_up
        assert credit.amount % price.amount == 0


@pytest.mark.parametrize("price", ["$9223372036854", "9223372036854775807 msat"])
def test_what_no_invoice_can_ask_is_not_offered(price: str) -> None:
    with pytest.raises(RailUnavailable):
        purchase(10, Money.parse(price), RATE)


def test_dollars_need_a_rate() -> None:
    assert purchase(2, Money.parse("21 sat"), None) == (Money.parse("42 sat"), 42_000)
    for top_up, price in ((1, "$0.01"), (Money.parse("$1"), "21 sat")):
        with pytest.raises(RailUnavailable, match="rate"):
            purchase(top_up, Money.parse(price), None)
