"""Which networks the owner takes payments on, and where each one's money and questions go: the settings, checked."""

from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.rails.x402.cdp import HOST, CdpAuthorizer
from fastapi_tollbooth.rails.x402.facilitator import Authorizer, Facilitator
from fastapi_tollbooth.rails.x402.networks import Network, Token, find_network, network_id, read_address
from fastapi_tollbooth.settings import X402Settings

T = TypeVar("T", str, str | list[str])


class Accepted(NamedTuple):
    """One network that payments are taken on. Without ``rpc_url`` lost settlements are not looked up on chain."""

    network: Network
    pay_to: str
    facilitator: Facilitator
    rpc_url: str | None


def accepted(settings: X402Settings, *, production: bool = False) -> tuple[Accepted, ...]:
    """What the settings accept, in their order.

    Raises:
        ConfigurationError: the settings do not fit each other.
    """
    tokens = {
        network_id(name): Token(asset.address, asset.decimals, asset.name, asset.version, asset.method)
        for name, asset in settings.assets.items()
    }
    pay_to = settings.pay_to
    names = settings.networks or (list(pay_to) if isinstance(pay_to, dict) else [])
    if not names:
        raise ConfigurationError(
            "no_network", "name the networks that x402 payments are taken on: TOLLBOOTH_X402__NETWORKS=base"
        )
    if production and "facilitator_url" not in settings.model_fields_set:
        raise ConfigurationError(
            "no_facilitator",
            "TOLLBOOTH_X402__FACILITATOR_URL is not set, and the default facilitator serves test networks only: "
            "name one that serves your networks, such as Coinbase's, https://api.cdp.coinbase.com/platform/v2/x402",
        )
    authorizers = _authorizers(settings)
    found = {}
    for name in names:
        network = find_network(name, tokens.get(network_id(name)))
        recipient = _of(network, pay_to, "TOLLBOOTH_X402__PAY_TO")
        if recipient is None:
            raise ConfigurationError(
                "no_recipient",
                f"TOLLBOOTH_X402__PAY_TO has no address for {name}: add one to the map, or leave {name} out of "
                "TOLLBOOTH_X402__NETWORKS",
            )
        recipient = read_address(network, recipient, "TOLLBOOTH_X402__PAY_TO")
        urls: str | list[str] | None = _of(network, settings.facilitator_url, "TOLLBOOTH_X402__FACILITATOR_URL")
        facilitators = [urls] if isinstance(urls, str) else urls
        if not facilitators:
            raise ConfigurationError(
                "no_facilitator",
                f"TOLLBOOTH_X402__FACILITATOR_URL names no facilitator for {name}: add one, or leave {name} out "
                "of TOLLBOOTH_X402__NETWORKS",
            )
        node = _of(network, settings.rpc_url, "TOLLBOOTH_X402__RPC_URL")
        for url in facilitators:
            _require_url(url, "TOLLBOOTH_X402__FACILITATOR_URL")
        if node:
            _require_url(node, "TOLLBOOTH_X402__RPC_URL")
        facilitator = Facilitator(facilitators, authorizers)
        found[network.id] = Accepted(network, recipient, facilitator, node if network.is_evm else None)
    return tuple(found.values())


def _of(network: Network, setting: T | dict[str, T] | None, what: str) -> T | None:
    if not isinstance(setting, dict):
        return setting
    by_id = {network_id(name): value for name, value in setting.items()}
    if len(by_id) != len(setting):
        raise ConfigurationError(
            "network_given_twice",
            f"{what} names a network twice: once by its familiar name, and once by its id; keep one",
        )
    return by_id.get(network.id)


def _authorizers(settings: X402Settings) -> dict[str, Authorizer]:
    key_id, secret = settings.cdp_api_key_id, settings.cdp_api_key_secret
    if (key_id is None) != (secret is None):
        raise ConfigurationError(
            "cdp_key",
            "TOLLBOOTH_X402__CDP_API_KEY_ID and TOLLBOOTH_X402__CDP_API_KEY_SECRET belong together: set both, "
            "or neither",
        )
    return {} if key_id is None or secret is None else {HOST: CdpAuthorizer(key_id, secret.get_secret_value())}


def _require_url(url: str, what: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.fragment:
        raise ConfigurationError(
            "not_a_url", f"{what} must be an address such as https://facilitator.example, without a user or a password"
        )
