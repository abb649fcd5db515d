"""The URL in the 402: what a trusted proxy saw, never what a caller makes up for others."""

import ipaddress
from typing import Any

import pytest

from fastapi_tollbooth.access import TrustedProxies
from fastapi_tollbooth.rails.x402.resource import resource_url

PROXY = (ipaddress.ip_network("10.0.0.0/8"),)


def url(
    *headers: tuple[str, str],
    public: str | None = None,
    trusted: TrustedProxies = (),
    scheme: str = "http",
    path: str = "/items/1",
    client: str = "10.0.0.1",
) -> str:
    scope: dict[str, Any] = {
        "path": path,
        "scheme": scheme,
        "client": (client, 1),
        "server": ("127.0.0.1", 8000),
        "query_string": b"secret=1",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    return resource_url(scope, public, trusted)


def test_it_is_what_the_server_saw_without_the_query() -> None:
    assert url(("host", "api.example.com")) == "http://api.example.com/items/1"
    assert url(("host", "[::1]:8000"), scheme="wss") == "https://[::1]:8000/items/1"


def test_the_public_url_wins() -> None:
    assert url(("host", "inside"), public="https://api.example.com/v1/") == "https://api.example.com/v1/items/1"


def test_a_trusted_proxy_is_believed_and_nobody_else() -> None:
    told = (("host", "api.example.com"), ("x-forwarded-proto", "https"))
    assert url(*told) == "http://api.example.com/items/1"
    assert url(*told, trusted=PROXY) == "https://api.example.com/items/1"
    assert url(*told, trusted=1) == "https://api.example.com/items/1"
    assert url(*told, trusted=PROXY, client="192.0.2.1") == "http://api.example.com/items/1"
    assert url(("host", "x"), ("x-forwarded-proto", "javascript"), trusted=1) == "http://x/items/1"


@pytest.mark.parametrize("host", ["", 'x"y', "a b", "x/y", "x@y", "a" * 300, "ünï", "x\r\ny"])
def test_a_host_that_is_none_is_replaced_by_the_server_s(host: str) -> None:
    assert url(("host", host)) == "http://127.0.0.1:8000/items/1"


def test_the_path_is_escaped_and_bounded() -> None:
    assert url(("host", "x"), path="/ü <script>") == "http://x/%C3%BC%20%3Cscript%3E"
    assert len(url(("host", "x"), path="/" + "a" * 9_000)) < 600
