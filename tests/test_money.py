import contextlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth import Asset, ConfigurationError, Money
from fastapi_tollbooth.money import MAX_AMOUNT, MSAT_PER_BTC, Rate, divide_up

amounts = st.integers(0, MAX_AMOUNT)
money = st.builds(Money, amounts, st.sampled_from(Asset))
rates = st.builds(Rate, st.integers(1, 10**13))


@pytest.mark.parametrize(
    ("text", "amount", "asset"),
    [
        ("$0.01", 10_000, Asset.USD),
        ("$1", 1_000_000, Asset.USD),
        ("$0.000001", 1, Asset.USD),
        ("0.01 USD", 10_000, Asset.USD),
        ("$0", 0, Asset.USD),
        ("21 sat", 21_000, Asset.BTC),
        ("21 sats", 21_000, Asset.BTC),
        ("0.5 sat", 500, Asset.BTC),
        ("500 msat", 500, Asset.BTC),
    ],
)
def test_declared_text_is_read_exactly(text: str, amount: int, asset: Asset) -> None:
    assert Money.parse(text) == Money(amount, asset)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$",
        "0.01",
        "$-1",
        "-$1",
        "+$1",
        "$+1",
        "$1e3",
        "$1E3",
        "$1_000",
        "$1,000",
        "$.5",
        "$1.",
        "$ 1",
        " $1",
        "$1 ",
        "$1\n",
        "$1\u00a0",
        "$01",
        "$NaN",
        "$Infinity",
        "$١",
        "$１",
        "$0.0000001",
        "21  sat",
        "21sat",
        "21\tsat",
        "21 SAT",
        "21 satoshi",
        "1.0001 sat",
        "1.5 msat",
        "1 BTC",
        "1 usd",
        "＄1",
        "0x10 sat",
        "$9223372036854.775808",
        "9223372036854775808 msat",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Money.parse(text)


@pytest.mark.parametrize("value", [None, 1, 0.01, b"$1", True])
def test_only_text_is_parsed(value: object) -> None:
    with pytest.raises(ConfigurationError):
        Money.parse(value)  # type: ignore[arg-type]


@given(money)
def test_formatting_and_parsing_are_inverse(value: Money) -> None:
    assert Money.parse(str(value)) == value


@given(st.text(max_size=12))
def test_parsing_never_fails_with_anything_but_a_configuration_error(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        assert Money.parse(text).amount >= 0


@pytest.mark.parametrize("amount", [-1, MAX_AMOUNT + 1, 1.0, "1", True, None])
def test_an_amount_is_an_integer_in_range(amount: object) -> None:
    with pytest.raises(ConfigurationError):
        Money(amount, Asset.USD)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "amount"),
    [
        (0.015, 15_000),
        (0.1 + 0.2, 300_000),  # not 0.30000000000000004
        (0.003 * 3, 9_000),
        (0.0000011, 2),
        (1, 1_000_000),
        (Decimal("0.0000001"), 1),
        (Decimal("1E-1000000"), 1),
        (Decimal("1E-99999999"), 1),
        (1e-7, 1),
        (0, 0),
        (0.003, 3_000),
    ],
)
def test_computed_dollars_are_rounded_up(number: float, amount: int) -> None:
    assert Money.dollars(number) == Money(amount, Asset.USD)


@pytest.mark.parametrize(
    "number", [-1, -0.01, float("nan"), float("inf"), Decimal("NaN"), Decimal("sNaN"), 1e300, True, "1", None, 10**30]
)
def test_nonsense_dollars_are_refused(number: object) -> None:
    with pytest.raises(ConfigurationError):
        Money.dollars(number)  # type: ignore[arg-type]


def test_arithmetic_is_checked() -> None:
    assert Money(3, Asset.USD) + Money(4, Asset.USD) == Money(7, Asset.USD)
    assert Money(4, Asset.USD) - Money(3, Asset.USD) == Money(1, Asset.USD)
    assert Money(4, Asset.USD) * 3 == Money(12, Asset.USD)
    assert Money(3, Asset.USD) < Money(4, Asset.USD) <= Money(4, Asset.USD)
    with pytest.raises(ConfigurationError):
        Money(3, Asset.USD) - Money(4, Asset.USD)
    with pytest.raises(ConfigurationError):
        Money(MAX_AMOUNT, Asset.USD) + Money(1, Asset.USD)
    with pytest.raises(ConfigurationError):
        Money(MAX_AMOUNT, Asset.USD) * 2
    for combine in (Money.__add__, Money.__sub__, Money.__lt__, Money.__le__):
        with pytest.raises(TypeError, match="convert"):
            combine(Money(1, Asset.USD), Money(1, Asset.BTC))


@pytest.mark.parametrize("text", ["0", "-1", "1e5", "97,000", "1.1234567", "", "NaN", "１"])
def test_nonsense_rates_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Rate.parse(text)


def test_rates_convert_both_ways() -> None:
    rate = Rate.parse("100000")
    assert rate.convert_up(Money.parse("$0.01"), Asset.BTC) == Money.parse("10 sat")
    assert rate.convert_down(Money.parse("10 sat"), Asset.USD) == Money.parse("$0.01")
    assert str(Rate.parse("97123.5")) == "97123.500000"


@given(st.integers(0, 10**12), rates)
def test_conversion_never_favours_the_caller(amount: int, rate: Rate) -> None:
    dollars = Money(amount, Asset.USD)
    if amount * MSAT_PER_BTC // rate.micro_usd_per_btc > MAX_AMOUNT // 2:
        return
    paid = rate.convert_up(dollars, Asset.BTC)
    assert rate.convert_down(paid, Asset.USD).amount >= amount
    assert rate.convert_up(rate.convert_down(paid, Asset.USD), Asset.BTC).amount <= paid.amount
    assert rate.convert_down(dollars, Asset.BTC).amount <= paid.amount
    assert rate.convert_up(dollars, Asset.USD) is dollars


@given(st.integers(0, 10**30), st.integers(1, 10**15))
def test_dividing_up(numerator: int, denominator: int) -> None:
    quotient = divide_up(numerator, denominator)
    assert (quotient - 1) * denominator < numerator <= quotient * denominator
