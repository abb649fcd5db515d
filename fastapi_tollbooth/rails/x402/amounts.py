"""Money to a token's atomic units, exactly. Pure."""

from fastapi_tollbooth.errors import ConfigurationError, RailUnavailable
from fastapi_tollbooth.money import MICRO_PER_USD, Asset, Money, Rate

MAX_ATOMIC = 2**128 - 1
MICRO_DECIMALS = 6
"""What a price in bitcoin is exchanged to has as many."""


def can_express(price: Money, decimals: int) -> bool:
    """Whether a price can be asked for in a token: one in bitcoin, at whatever exchange rate."""
    if price.asset is not Asset.USD:
        return decimals >= MICRO_DECIMALS
    try:
        return atomic_amount(price, decimals, None) > 0
    except ConfigurationError:
        return False


def atomic_amount(price: Money, decimals: int, rate: Rate | None) -> int:
    """What a price is in units of ``10**-decimals`` dollars. Nothing is rounded off: it is exact, or an error.

    A price in bitcoin is first exchanged to micro-dollars, rounded up.

    Raises:
        RailUnavailable: the price is in bitcoin and there is no exchange rate.
        ConfigurationError: the token cannot express the amount.
    """
    if price.asset is not Asset.USD:
        if rate is None:
            raise RailUnavailable("there is no exchange rate for a price in bitcoin")
        price = rate.convert_up(price, Asset.USD)
    scale: int = 10**decimals
    atomic, rest = divmod(price.amount * scale, MICRO_PER_USD)
    if rest or not 0 < atomic <= MAX_ATOMIC:
        raise ConfigurationError(
            "inexpressible_price",
            f"{price} cannot be paid in a token with {decimals} decimals: declare a price that it can express",
        )
    return atomic
