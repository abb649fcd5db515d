"""What one Lightning payment buys. Pure."""

from functools import lru_cache

from fastapi_tollbooth.errors import ConfigurationError, RailUnavailable
from fastapi_tollbooth.money import MSAT_PER_SAT, Asset, Money, Rate, divide_up


@lru_cache(maxsize=1_024)
def purchase(top_up: int | Money, price: Money, rate: Rate | None) -> tuple[Money, int]:
    """What one payment buys at this price, and the whole satoshis, as msat, that it costs.

    A count buys that many requests, or as many more as the rounded-up invoice is worth. An amount buys itself, or one
    request where that is dearer.

    Raises:
        RailUnavailable: the price is in dollars and there is no exchange rate, or it is beyond what can be paid.
    """
    try:
        return _purchase(top_up, price, rate)
    except ConfigurationError as error:
        raise RailUnavailable("the amount is out of range") from error


def _purchase(top_up: int | Money, price: Money, rate: Rate | None) -> tuple[Money, int]:
    if rate is None and (price.asset is not Asset.BTC or (isinstance(top_up, Money) and top_up.asset is not Asset.BTC)):
        raise RailUnavailable("there is no exchange rate for a price in dollars")

    def exchange_up(money: Money, asset: Asset) -> Money:
        return money if rate is None else rate.convert_up(money, asset)

    credit = price * top_up if isinstance(top_up, int) else top_up
    if not exchange_up(price, credit.asset) <= credit:
        credit = price
    sats = max(1, divide_up(exchange_up(credit, Asset.BTC).amount, MSAT_PER_SAT))
    if isinstance(top_up, int):
        paid = Money(sats * MSAT_PER_SAT, Asset.BTC)
        worth = paid if rate is None else rate.convert_down(paid, price.asset)
        credit = price * max(top_up, worth.amount // price.amount)
    return credit, sats * MSAT_PER_SAT
