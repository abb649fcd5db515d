"""The node, and the price of what it receives, that the settings describe."""

from collections.abc import Callable

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.lightning import LightningBackend
from fastapi_tollbooth.lightning.cln import ClnNode
from fastapi_tollbooth.lightning.dev import DevNode
from fastapi_tollbooth.lightning.lnbits import LnbitsNode
from fastapi_tollbooth.lightning.lnd import LndNode
from fastapi_tollbooth.lightning.phoenixd import PhoenixdNode
from fastapi_tollbooth.money import Rate
from fastapi_tollbooth.rates import FixedRate, MedianRate, RateSource
from fastapi_tollbooth.settings import LightningSettings, TollboothSettings
from fastapi_tollbooth.tickers import tickers

DEVELOPMENT_RATE = Rate.parse("100000")


def configured_node(
    settings: TollboothSettings, ledger: Ledger, keys: Callable[[], KeyRing]
) -> LightningBackend | None:
    """The Lightning node, if any. Nobody is asked anything before it is needed.

    Args:
        keys: The key ring, which the development node alone needs.

    Raises:
        ConfigurationError: something that this kind of node needs is missing or wrong, or it is the development node
            in production.
    """
    backend = settings.lightning_backend
    if settings.lightning.backend is None and (settings.lightning.url or settings.lightning.api_key):
        raise ConfigurationError(
            "no_backend",
            "TOLLBOOTH_LIGHTNING__URL or __API_KEY is set, and nothing says what kind of node listens there: set "
            'TOLLBOOTH_LIGHTNING__BACKEND to "phoenixd", "lnd", "cln", "lnbits" or "nwc"',
        )
    if backend == "dev":
        return DevNode(keys(), ledger, settings.environment, ledger.side_file("devnode"))
    return None if backend == "none" else _REAL_NODES[backend](settings.lightning)


def _nwc_node(settings: LightningSettings) -> LightningBackend:
    try:
        from fastapi_tollbooth.lightning.nwc import NwcNode
    except ImportError as error:
        raise ConfigurationError(
            "missing_extra", 'Nostr Wallet Connect needs the extra "nwc": pip install "fastapi-tollbooth[nwc]"'
        ) from error
    return NwcNode(settings)


_REAL_NODES: dict[str, Callable[[LightningSettings], LightningBackend]] = {
    "phoenixd": PhoenixdNode,
    "lnd": LndNode,
    "cln": ClnNode,
    "lnbits": LnbitsNode,
    "nwc": _nwc_node,
}


def configured_rates(settings: TollboothSettings) -> RateSource:
    """Where the dollar price of a bitcoin comes from; a made-up one is good enough for the development node's coins."""
    if settings.btc_usd is not None or settings.lightning_backend == "dev":
        return FixedRate(settings.btc_usd or DEVELOPMENT_RATE)
    return MedianRate(tickers(settings.rate_tickers), max_age=settings.rate_max_age)
