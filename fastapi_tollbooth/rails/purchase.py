"""What one Lightning payment buys. Pure."""

from functools import lru_cache
from typing import NamedTuple

from fastapi_tollbooth.bundles import Bundle
from fastapi_tollbooth.errors import ConfigurationError, RailUnavailable
from fastapi_tollbooth.money import MSAT_PER_SAT, Asset, Money, Rate, divide_up
from fastapi_tollbooth.rails.macaroon import MAX_INVOICE_SATS


class Purchase(NamedTuple):
    """A payment of whole satoshis, in msat, and the credit that it buys."""

    credit: Money
    msat: int

    @property
    def sats(self) -> int:
        """What the invoice asks."""
        return self.msat // MSAT_PER_SAT


@lru_cache(maxsize=1_024)
def purchase(top_up: int | Money, price: Money, rate: Rate | None, minimum: Money | None = None) -> Purchase:
    """What one payment buys at this price.

    A count buys that many requests, or as many more as the rounded-up invoice is worth. An amount buys itself, or one
    request where that is dearer. An invoice for less than the minimum asks the minimum, and buys what that is worth.

    Raises:
        RailUnavailable: the price is in dollars and there is no exchange rate, or it is beyond what can be paid.
    """
    try:
        return _purchase(top_up, price, rate, minimum)
    except ConfigurationError as error:
        raise RailUnavailable("the amount is out of range") from error


def bundle_purchase(bundle: Bundle, price: Money | None, asset: Asset, rate: Rate | None) -> Purchase:
    """What a bundle buys, as credit in an asset. ``price`` is that of the request that asks, if there is one.

    Raises:
        RailUnavailable: the credit does not cover the request, or cannot be exchanged, or not be paid.
    """
    try:
        credit = exchange(bundle.get, asset, rate, up=False)
        if price is not None and not exchange(price, asset, rate, up=True) <= credit:
            raise RailUnavailable("the bundle does not cover the price")
        return Purchase(credit, _whole_sats(bundle.pay, rate))
    except ConfigurationError as error:
        raise RailUnavailable("the amount is out of range") from error


def _purchase(top_up: int | Money, price: Money, rate: Rate | None, minimum: Money | None) -> Purchase:
    credit = price * top_up if isinstance(top_up, int) else top_up
    if not exchange(price, credit.asset, rate, up=True) <= credit:
        credit = price
    asked, least = _whole_sats(credit, rate), 0 if minimum is None else _whole_sats(minimum, rate)
    msat = max(asked, least)
    if isinstance(top_up, int):
        worth = exchange(Money(msat, Asset.BTC), price.asset, rate, up=False)
        credit = price * max(top_up, worth.amount // price.amount)
    elif msat > asked:
        worth = exchange(Money(msat, Asset.BTC), credit.asset, rate, up=False)
        credit = max(credit, worth, key=lambda money: money.amount)
    return Purchase(credit, msat)


def _whole_sats(money: Money, rate: Rate | None) -> int:
    sats = max(1, divide_up(exchange(money, Asset.BTC, rate, up=True).amount, MSAT_PER_SAT))
    if sats > MAX_INVOICE_SATS:
        raise RailUnavailable("no invoice can ask so much")
    return sats * MSAT_PER_SAT


def exchange(money: Money, asset: Asset, rate: Rate | None, *, up: bool) -> Money:
    """Money in another asset, rounded up or down.

    Raises:
        RailUnavailable: there is no exchange rate.
        ConfigurationError: the amount is beyond what can be counted.
    """
    if money.asset is asset:
        return money
    if rate is None:
        raise RailUnavailable("there is no exchange rate for a price in dollars")
    return rate.convert_up(money, asset) if up else rate.convert_down(money, asset)
