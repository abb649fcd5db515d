"""Money as integers: micro-dollars and millisatoshi, their text, and the exchange between them.

Pure: no I/O, no framework. Nothing here goes through ``float``.
"""

import re
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, InvalidOperation, localcontext
from enum import StrEnum
from typing import Any, Self

from fastapi_tollbooth.errors import ConfigurationError

MAX_AMOUNT = 2**63 - 1
MSAT_PER_SAT = 1_000
MSAT_PER_BTC = 100_000_000_000
MICRO_PER_USD = 1_000_000
_MICRO_PER_CENT = 10_000

_WHOLE = r"(0|[1-9][0-9]{0,18})"
_DOLLARS = re.compile(rf"\${_WHOLE}(?:\.([0-9]+))?")
_WITH_UNIT = re.compile(rf"{_WHOLE}(?:\.([0-9]+))? (USD|sats?|msat)")
_NUMBER = re.compile(rf"{_WHOLE}(?:\.([0-9]+))?")
_HELP = 'write it like "$0.01", "0.01 USD", "21 sat" or "500 msat"'


class Asset(StrEnum):
    """What an amount is counted in. USD amounts are micro-dollars (10^-6), BTC amounts are millisatoshi."""

    USD = "USD"
    BTC = "BTC"


_DECIMALS = {"USD": 6, "sat": 3, "sats": 3, "msat": 0}


@dataclass(frozen=True, slots=True, init=False)
class Money:
    """An amount that is never negative, in the smallest unit of its asset.

    Raises:
        ConfigurationError: the amount is not an integer from 0 to 2^63 - 1.
    """

    amount: int
    asset: Asset

    def __init__(self, amount: int, asset: Asset) -> None:
        if type(amount) is not int or not 0 <= amount <= MAX_AMOUNT:
            raise ConfigurationError(
                "amount_out_of_range", f"an amount of money is an integer from 0 to {MAX_AMOUNT}, not {amount!r}"
            )
        object.__setattr__(self, "amount", amount)
        object.__setattr__(self, "asset", asset)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read declared text such as ``"$0.01"``, ``"0.01 USD"``, ``"21 sat"``, ``"21 sats"`` or ``"500 msat"``.

        The grammar is strict ASCII: no sign, exponent, underscore, grouping, other digits or extra spaces, and never
        more decimals than the asset has.

        Raises:
            ConfigurationError: the text is not an amount, or has more precision or size than its asset.
        """
        if not isinstance(text, str):
            raise ConfigurationError("not_an_amount", f"{text!r} is not an amount of money: {_HELP}")
        if match := _DOLLARS.fullmatch(text):
            whole, fraction, unit = match[1], match[2] or "", "USD"
        elif match := _WITH_UNIT.fullmatch(text):
            whole, fraction, unit = match[1], match[2] or "", match[3]
        else:
            raise ConfigurationError("not_an_amount", f"{text!r} is not an amount of money: {_HELP}")
        asset, decimals = Asset.USD if unit == "USD" else Asset.BTC, _DECIMALS[unit]
        if len(fraction) > decimals:
            raise ConfigurationError(
                "too_many_decimals",
                f"{text!r} has more than the {decimals} decimals that {unit} has: the smallest amount is "
                f"{cls(1, asset)}",
            )
        amount = int(whole + fraction.ljust(decimals, "0"))
        return cls(amount, asset)

    @classmethod
    def dollars(cls, number: int | float | Decimal) -> Self:
        """A computed number of dollars, rounded **up** to the micro-dollar.

        A float counts as its decimal text to 15 significant digits, all that it can hold: ``0.003 * 3`` is ``0.009``.

        Raises:
            ConfigurationError: the number is negative, not finite or out of range.
        """
        if isinstance(number, bool) or not isinstance(number, int | float | Decimal):
            raise ConfigurationError(
                "not_an_amount", f"a number of dollars is an int, float or Decimal, not {type(number).__name__}"
            )
        try:
            exact = Decimal(format(number, ".15g")) if isinstance(number, float) else Decimal(number)
        except InvalidOperation as error:
            raise ConfigurationError(
                "not_an_amount", f"{number!r} is not a number of dollars: write one such as 0.01"
            ) from error
        if not exact.is_finite() or exact < 0 or exact > MAX_AMOUNT // MICRO_PER_USD:
            raise ConfigurationError(
                "amount_out_of_range", f"{number!r} is not a number of dollars from 0 to {MAX_AMOUNT // MICRO_PER_USD}"
            )
        with localcontext(prec=60, rounding=ROUND_CEILING):
            return cls(int((exact * MICRO_PER_USD).to_integral_value(ROUND_CEILING)), Asset.USD)

    @property
    def is_zero(self) -> bool:
        """Whether this is no money at all."""
        return self.amount == 0

    def __str__(self) -> str:
        if self.asset is Asset.USD:
            cents, rest = divmod(self.amount, _MICRO_PER_CENT)
            text = f"${cents // 100}.{cents % 100:02}"
            return text + f"{rest:04d}".rstrip("0") if rest else text
        sats, msat = divmod(self.amount, MSAT_PER_SAT)
        return f"{self.amount} msat" if msat else f"{sats} sat"

    def __add__(self, other: "Money") -> "Money":
        self._require_same_asset(other)
        return Money(self.amount + other.amount, self.asset)

    def __sub__(self, other: "Money") -> "Money":
        self._require_same_asset(other)
        return Money(self.amount - other.amount, self.asset)

    def __mul__(self, times: int) -> "Money":
        return Money(self.amount * times, self.asset)

    def __lt__(self, other: "Money") -> bool:
        self._require_same_asset(other)
        return self.amount < other.amount

    def __le__(self, other: "Money") -> bool:
        self._require_same_asset(other)
        return self.amount <= other.amount

    def _require_same_asset(self, other: Any) -> None:
        if not isinstance(other, Money) or other.asset is not self.asset:
            raise TypeError(f"cannot combine {self} with {other}: convert one of them first")


def money_of(amount: str | Money) -> Money:
    """An amount that is money already, or its text.

    Raises:
        ConfigurationError: it is neither.
    """
    return amount if isinstance(amount, Money) else Money.parse(amount)


@dataclass(frozen=True, slots=True)
class Rate:
    """The price of one bitcoin, in micro-dollars. Converting states which way the remainder goes."""

    micro_usd_per_btc: int

    def __post_init__(self) -> None:
        if type(self.micro_usd_per_btc) is not int or not 0 < self.micro_usd_per_btc <= MAX_AMOUNT:
            raise ConfigurationError(
                "not_an_exchange_rate",
                'an exchange rate is a positive number of dollars for one bitcoin, like "97123.50"',
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read dollars for one bitcoin, such as ``"97123.50"``.

        Raises:
            ConfigurationError: the text is not a positive decimal number with at most six decimals.
        """
        match = _NUMBER.fullmatch(text)
        if match is None or len(match[2] or "") > 6:
            raise ConfigurationError(
                "not_an_exchange_rate", f'{text!r} is not a rate: write dollars for one bitcoin, like "97123.50"'
            )
        return cls(int(match[1] + (match[2] or "").ljust(6, "0")))

    def convert_up(self, money: Money, asset: Asset) -> Money:
        """What a caller pays: never less than the exact value."""
        return self._convert(money, asset, divide_up)

    def convert_down(self, money: Money, asset: Asset) -> Money:
        """What a caller gets: never more than the exact value."""
        return self._convert(money, asset, int.__floordiv__)

    def _convert(self, money: Money, asset: Asset, divide: Any) -> Money:
        if money.asset is asset:
            return money
        if asset is Asset.BTC:
            return Money(divide(money.amount * MSAT_PER_BTC, self.micro_usd_per_btc), Asset.BTC)
        return Money(divide(money.amount * self.micro_usd_per_btc, MSAT_PER_BTC), Asset.USD)

    def __str__(self) -> str:
        whole, micro = divmod(self.micro_usd_per_btc, MICRO_PER_USD)
        return f"{whole}.{micro:06d}"


def divide_up(numerator: int, denominator: int) -> int:
    """Integer division that rounds towards the larger result."""
    return -(-numerator // denominator)
