"""The ways to be paid that the settings describe."""

from collections.abc import Callable
from typing import Any

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.rails import Rail
from fastapi_tollbooth.rails.x402.rail import X402Rail
from fastapi_tollbooth.rates import RateSource
from fastapi_tollbooth.settings import TollboothSettings


def configured_rails(
    settings: TollboothSettings, ledger: Ledger, rates: RateSource, lightning: Callable[[], Rail[Any] | None]
) -> tuple[Rail[Any], ...]:
    """The rails, in the order in which they are offered.

    Args:
        settings: What the owner has set.
        ledger: Where the money is kept.
        rates: Where the dollar price of a bitcoin comes from.
        lightning: Makes the Lightning rail, if there is a node.

    Raises:
        ConfigurationError: there is none, or one cannot work.
    """
    stablecoins = None if settings.x402.pay_to is None else X402Rail(settings, ledger, rates)
    rails = tuple(rail for rail in (lightning(), stablecoins) if rail is not None)
    if not rails:
        raise ConfigurationError(
            "no way to be paid is configured: set TOLLBOOTH_LIGHTNING__BACKEND, __URL and __API_KEY to your node, or "
            "TOLLBOOTH_X402__PAY_TO and __NETWORKS to your wallet, or pass Tollbooth(lightning=...) or "
            "Tollbooth(rails=[...])"
        )
    return rails
