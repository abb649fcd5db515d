"""The ways to be paid that the settings describe."""

from collections.abc import Callable
from typing import Any

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.lightning import LightningBackend
from fastapi_tollbooth.rails import Rail
from fastapi_tollbooth.rails.l402 import L402Rail
from fastapi_tollbooth.rails.owner_caveats import OwnerCaveats
from fastapi_tollbooth.rails.prepaid import PrepaidRail
from fastapi_tollbooth.rails.x402.rail import X402Rail
from fastapi_tollbooth.rates import RateSource
from fastapi_tollbooth.settings import TollboothSettings


def configured_rails(
    settings: TollboothSettings,
    keys: Callable[[], KeyRing],
    ledger: Ledger,
    lightning: LightningBackend | None,
    rates: RateSource,
    caveats: OwnerCaveats,
) -> tuple[Rail[Any], ...]:
    """The rails, in the order in which they are offered.

    Args:
        settings: What the owner has set.
        keys: The key ring, which only credentials for credit need.
        ledger: Where the money is kept.
        lightning: The Lightning node, if there is one.
        rates: Where the dollar price of a bitcoin comes from.
        caveats: The owner's own conditions in credentials.

    Raises:
        ConfigurationError: there is none, or one cannot work.
    """
    rails: list[Rail[Any]] = []
    if lightning is not None:
        rails.append(L402Rail(settings, keys(), ledger, lightning, rates, caveats))
    if settings.x402.pay_to is not None:
        rails.append(X402Rail(settings, ledger, rates, keys() if can_sign(settings) else None))
        if lightning is None and can_sign(settings):
            rails.append(PrepaidRail(settings, keys(), ledger, rates, caveats))
    if not rails:
        raise ConfigurationError(
            "no_rail",
            "no way to be paid is configured: set TOLLBOOTH_LIGHTNING__BACKEND, __URL and __API_KEY to your node, or "
            "TOLLBOOTH_X402__PAY_TO and __NETWORKS to your wallet, or pass Tollbooth(lightning=...) or "
            "Tollbooth(rails=[...])",
        )
    return tuple(rails)


def can_sign(settings: TollboothSettings) -> bool:
    """Whether there is a key ring: in production it is not made up, and stablecoins per request do without."""
    return settings.environment != "production" or settings.secret is not None
