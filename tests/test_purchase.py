import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.bundles import Bundle
from fastapi_tollbooth.errors import RailUnavailable
from fastapi_tollbooth.money import Rate
from fastapi_tollbooth.rails.purchase import Purchase, bundle_purchase, purchase

RATE = Rate.parse("100000")
CENT = Money.parse("$0.01")


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
    assert purchase(bought, Money.parse(price), RATE) == Purchase(Money.parse(credit), sats * 1_000)


@given(
    st.integers(1, 1_000) | st.builds(Money, st.integers(1, 10**7), st.sampled_from(Asset)),
    st.builds(Money, st.integers(1, 10**7), st.sampled_from(Asset)),
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


@pytest.mark.parametrize(
    ("top_up", "price", "minimum", "credit", "sats"),
    [
        (1, "$0.01", "100 sat", "$0.10", 100),
        (10, "$0.01", "100 sat", "$0.10", 100),
        (1, "21 sat", "$0.05", "42 sat", 50),
        ("$0.02", "$0.01", "100 sat", "$0.10", 100),
        ("$1", "$0.01", "100 sat", "$1.00", 1_000),
    ],
)
def test_the_least_that_an_invoice_asks_buys_what_it_is_worth(
    top_up: int | str, price: str, minimum: str, credit: str, sats: int
) -> None:
    bought = Money.parse(top_up) if isinstance(top_up, str) else top_up
    found = purchase(bought, Money.parse(price), RATE, Money.parse(minimum))
    assert found == Purchase(Money.parse(credit), sats * 1_000)


@given(
    st.integers(1, 1_000) | st.builds(Money, st.integers(1, 10**7), st.sampled_from(Asset)),
    st.builds(Money, st.integers(1, 10**7), st.sampled_from(Asset)),
    st.builds(Rate, st.integers(10**9, 10**12)),
    st.builds(Money, st.integers(1, 10**7), st.sampled_from(Asset)),
)
def test_a_minimum_takes_nothing_for_nothing(top_up: int | Money, price: Money, rate: Rate, minimum: Money) -> None:
    bought = purchase(top_up, price, rate, minimum)
    assert bought.msat >= rate.convert_up(minimum, Asset.BTC).amount
    worth = rate.convert_down(Money(bought.msat, Asset.BTC), bought.credit.asset)
    # Counted credit is whole requests: what is left over is less than one.
    assert worth.amount - bought.credit.amount <= (price.amount if isinstance(top_up, int) else worth.amount)
    assert rate.convert_up(price, bought.credit.asset) <= bought.credit
    if not isinstance(top_up, int) and bought.msat > purchase(top_up, price, rate).msat:
        assert bought.credit.amount >= worth.amount


def test_bundles_buy_more_than_they_cost() -> None:
    bundle = Bundle(Money.parse("10000 sat"), Money.parse("11000 sat"))
    assert bundle_purchase(bundle, None, Asset.BTC, None) == Purchase(Money.parse("11000 sat"), 10_000_000)
    assert bundle_purchase(bundle, CENT, Asset.USD, RATE) == Purchase(Money.parse("$11"), 10_000_000)
    dollars = Bundle(Money.parse("$10"), Money.parse("$12"))
    assert bundle_purchase(dollars, CENT, Asset.USD, RATE) == Purchase(Money.parse("$12"), 10_000_000)


def test_a_bundle_that_does_not_cover_the_request_is_not_sold_for_it() -> None:
    bundle = Bundle(Money.parse("10 sat"), Money.parse("11 sat"))
    with pytest.raises(RailUnavailable):
        bundle_purchase(bundle, Money.parse("12 sat"), Asset.BTC, None)
    with pytest.raises(RailUnavailable, match="rate"):
        bundle_purchase(bundle, CENT, Asset.BTC, None)


@given(
    st.builds(Money, st.integers(1, 10**7), st.just(Asset.USD)),
    st.builds(Rate, st.integers(10**9, 10**12)),
)
def test_no_dollar_price_makes_an_invoice_of_nothing(price: Money, rate: Rate) -> None:
    assert purchase(1, price, rate).sats >= 1
    assert purchase(1, Money.parse("$0.0001"), rate).sats >= 1
