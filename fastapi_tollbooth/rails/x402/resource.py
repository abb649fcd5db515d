"""The URL by which callers know what they are asked to pay for. Never what a caller could forge for somebody else."""

import re
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote

from fastapi_tollbooth.access import TrustedProxies, is_proxied

MAX_PATH = 512
_HOST = re.compile(rb"[A-Za-z0-9._~\-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_SCHEMES = {"ws": "http", "wss": "https"}


def resource_url(scope: MutableMapping[str, Any], public_url: str | None, trusted: TrustedProxies) -> str:
    """The URL of a request, without its query.

    Its scheme and host are ``public_url``'s where there is one; else those that the server saw, with the scheme that a
    trusted proxy reports in ``X-Forwarded-Proto``.
    """
    path = quote(str(scope.get("path", "/")), safe="/%:@!$&'()*+,;=~-._")[:MAX_PATH]
    if public_url is not None:
        return public_url.rstrip("/") + path
    scheme = str(scope.get("scheme", "http"))
    headers = {name: value for name, value in scope.get("headers", ()) if name in (b"host", b"x-forwarded-proto")}
    if headers.get(b"x-forwarded-proto") in (b"https", b"http") and is_proxied(scope, trusted):
        scheme = headers[b"x-forwarded-proto"].decode()
    host = headers.get(b"host", b"")
    if not _HOST.fullmatch(host):
        server = scope.get("server") or ("localhost", None)
        host = f"{server[0]}:{server[1]}".encode() if server[1] else str(server[0]).encode()
    return f"{_SCHEMES.get(scheme, scheme)}://{host.decode()}{path}"
