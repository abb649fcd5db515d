"""Who is calling."""

import ipaddress
from collections.abc import MutableMapping
from typing import Any


def client_of(scope: MutableMapping[str, Any]) -> str:
    """A name for the client of a connection: its socket peer, an IPv6 client by its /64 network.

    Forwarding headers are the business of the ASGI server, which knows which proxies to trust.
    """
    client = scope.get("client")
    if not client:
        return "unknown"
    host = str(client[0])
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
