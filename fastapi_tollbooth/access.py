"""Who is calling: what free tiers, rate limits and open invoices are counted by.

The socket peer, unless it is a proxy that the owner trusts: then the address that the proxy saw. ``X-Forwarded-For`` is
read from its right end, which trusted proxies wrote; whatever callers put further left decides nothing.
"""

import inspect
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from fastapi_tollbooth.errors import HookFailed

logger = logging.getLogger("fastapi_tollbooth")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
TrustedProxies = int | tuple[Network, ...]
"""How many proxies there are in front of the service, or the networks that they are in."""

ClientResolver = Callable[[HTTPConnection], str | Awaitable[str | None] | None]
"""Names the caller of a request by what the application knows of it; None leaves it to the address."""

UNKNOWN = "unknown"
_MAX_PROXIES = 32
_MAX_ADDRESS = 64
_FORWARDED_FOR = b"x-forwarded-for"
_WITH_PORT = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<four>[0-9.]+))(?::[0-9]{1,5})?")


def parse_proxies(value: Any) -> Any:
    """What ``TOLLBOOTH_TRUSTED_PROXIES`` says: a count such as ``1``, or networks such as ``10.0.0.0/8, ::1``.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int):
        if not 0 <= value <= _MAX_PROXIES:
            raise ValueError(f"the number of proxies is between 0 and {_MAX_PROXIES}")
        return value
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    return tuple(ipaddress.ip_network(network) for network in value)


async def name_of(connection: HTTPConnection, trusted: TrustedProxies, resolver: ClientResolver | None) -> str:
    """The caller's name: what the owner's resolver says, if anything, or the caller's network.

    Raises:
        HookFailed: the resolver failed.
    """
    if resolver is not None:
        try:
            name = resolver(connection)
            if inspect.isawaitable(name):
                name = await name
        except HTTPException:
            raise
        except Exception as error:
            logger.exception("the function that names clients failed; nothing was charged")
            raise HookFailed("client_unknown", "The service could not tell who is calling.") from error
        if name is not None:
            return f"user:{name}"
    return client_of(connection.scope, trusted)


def client_of(scope: MutableMapping[str, Any], trusted: TrustedProxies = ()) -> str:
    """The caller's network: an IPv4 address, or the /64 of an IPv6 address, which one caller has whole."""
    peer = str(scope["client"][0]) if scope.get("client") else None
    if trusted:
        chain = _forwarded(scope)
        peer = _behind_hops(peer, chain, trusted) if isinstance(trusted, int) else _behind(peer, chain, trusted)
    return UNKNOWN if peer is None else _network_of(peer)


@lru_cache(maxsize=8_192)
def _network_of(peer: str) -> str:
    address = _address(peer)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return peer if address is None else str(address)


def is_proxied(scope: MutableMapping[str, Any], trusted: TrustedProxies) -> bool:
    """Whether a request came through a proxy that the owner trusts, so that what it reports can be believed."""
    if isinstance(trusted, int):
        return trusted > 0
    return bool(scope.get("client")) and _is_in(str(scope["client"][0]), trusted)


def _behind_hops(peer: str | None, chain: list[str], hops: int) -> str | None:
    # Each proxy appends the address that it was called from. A request with fewer did not come through all of them.
    return chain[-hops] if len(chain) >= hops and _address(chain[-hops]) is not None else peer


def _behind(peer: str | None, chain: list[str], networks: tuple[Network, ...]) -> str | None:
    while chain and peer is not None and _is_in(peer, networks) and _address(chain[-1]) is not None:
        peer = chain.pop()
    return peer


def _is_in(text: str, networks: tuple[Network, ...]) -> bool:
    address = _address(text)
    return address is not None and any(address in network for network in networks if network.version == address.version)


def _forwarded(scope: MutableMapping[str, Any]) -> list[str]:
    lines = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == _FORWARDED_FOR]
    chain = ",".join(lines).rsplit(",", _MAX_PROXIES)[-_MAX_PROXIES:] if lines else []
    return [_without_port(entry.strip()) for entry in chain]


def _without_port(entry: str) -> str:
    match = _WITH_PORT.fullmatch(entry)
    return (match["six"] or match["four"]) if match else entry


def _address(text: str) -> Address | None:
    # Callers choose what stands in some headers: nothing long is remembered.
    return _parsed(text) if len(text) <= _MAX_ADDRESS else None


@lru_cache(4_096)
def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
