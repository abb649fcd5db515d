"""Payers in browsers: what CORS must let them send and read."""

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from fastapi_tollbooth.errors import ConfigurationError

SENT = (
    "Authorization",
    "PAYMENT-SIGNATURE",
    "X-PAYMENT",
    "X-Toll-Tier",
    "X-Toll-Bundle",
    "Idempotency-Key",
    "Accept",
    "Content-Type",
)
"""The headers that a payer sends: credentials, and what a price may depend on."""

READ = (
    "WWW-Authenticate",
    "PAYMENT-REQUIRED",
    "PAYMENT-RESPONSE",
    "X-PAYMENT-RESPONSE",
    "X-Credit-Authorization",
    "X-Credit-Balance",
    "X-Free-Remaining",
    "Idempotent-Replayed",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
)
"""The headers that a payer reads: offers, receipts, and when to come again."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def allow_payers(
    app: FastAPI,
    origins: Sequence[str],
    *,
    methods: Sequence[str] = METHODS,
    headers: Sequence[str] = (),
    expose: Sequence[str] = (),
    max_age: int = 600,
) -> None:
    """Let pages of these origins pay: adds Starlette's CORS middleware with the headers that payers send and read.

    Args:
        origins: Your frontends, such as ``["https://shop.example"]``.
        methods: What they may call.
        headers: Headers of your own that they send.
        expose: Headers of your own that they read.
        max_age: Seconds that a browser remembers the answer to a preflight.

    Raises:
        ConfigurationError: an origin is ``*`` or none: any page could then spend what a browser keeps.
    """
    for origin in origins:
        scheme, separator, rest = origin.partition("://")
        if scheme not in ("http", "https") or not separator or not rest or "/" in rest or "*" in rest:
            raise ConfigurationError("not_an_origin", f'{origin!r} is not an origin: write "https://shop.example"')
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=list(methods),
        allow_headers=[*SENT, *headers],
        expose_headers=[*READ, *expose],
        max_age=max_age,
    )
