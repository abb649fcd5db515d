"""Refusals as HTTP: RFC 9457 problem documents, or a plain page for people in browsers."""

import html
import inspect
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

from fastapi_tollbooth.errors import Refusal
from fastapi_tollbooth.rails import Answered, Receipt

PROBLEM_JSON = "application/problem+json"
VARY = b"Accept, Authorization, PAYMENT-SIGNATURE"

_JSON_TYPES = (PROBLEM_JSON, "application/json")
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem; color: #222 }}
h1 {{ font-size: 1.5rem }}
dt {{ font-weight: 600; margin-top: 1rem }}
dd {{ margin: 0; overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .9rem }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{detail}</p>
<dl>{rows}</dl>
</body>
</html>
"""
_PAGE_ROWS = {
    "price": "Price",
    "amountSats": "Satoshis to pay",
    "invoice": "Lightning invoice",
    "macaroon": "Macaroon",
    "expiresAt": "Payable until",
    "reason": "Reason",
}


async def refusal_handler(connection: Any, refusal: Any) -> Response:
    """The exception handler that `Tollbooth.install` adds to the application for `Refusal`."""
    return refusal_response(connection, refusal)


def ensure_answered(scope: Scope) -> None:
    """Have the application that serves this request answer refusals in our form.

    `Tollbooth.install` adds the handler to the application it is called with. One mounted below has handlers of its
    own, which Starlette keeps in the scope, and would else answer with the bare detail.
    """
    handlers = scope.get("starlette.exception_handlers")
    if handlers is not None:
        handlers[0].setdefault(Refusal, refusal_handler)
        handlers[0].setdefault(Answered, answered_handler)


async def answered_handler(_: Any, answered: Any) -> Response:
    """The exception handler for `Answered`."""
    return answered_response(answered)


def answered_response(answered: Answered) -> Response:
    """An answer that is given again, with its receipt, and with ``Idempotent-Replayed`` to tell it from the first."""
    status, headers, body = answered.response
    response = Response(body, status)
    response.raw_headers = [*with_receipt(headers, answered.receipt), (b"idempotent-replayed", b"true")]
    return response


def with_receipt(headers: Iterable[tuple[bytes, bytes]], receipt: Receipt) -> list[tuple[bytes, bytes]]:
    """The headers of a paid answer: no cache is to give it to others, unless the handler wants that."""
    lines = list(headers)
    for name, value in receipt.headers:
        lines.append((name.lower().encode("latin-1"), value.encode("latin-1")))
    if b"cache-control" not in dict(lines):  # ASGI: the names of headers are in lower case
        lines.append((b"cache-control", b"private"))
    return lines


async def answer(connection: HTTPConnection, refusal: Refusal) -> Response:
    """A refusal as the application would answer it, had it been raised in a route: by the owner's handler, if any."""
    handlers = getattr(connection.scope.get("app"), "exception_handlers", {})
    handler = next((handlers[cls] for cls in type(refusal).__mro__ if cls in handlers), refusal_handler)
    response = handler(connection, refusal)
    if inspect.isawaitable(response):
        response = await response
    return response if isinstance(response, Response) else refusal_response(connection, refusal)


def refusal_response(connection: HTTPConnection, refusal: Refusal) -> Response:
    """A refusal in the form that the caller prefers. HEAD gets the headers alone."""
    body: str | bytes
    if prefers_html(connection.headers.get("accept", "")):
        body, media_type = _page(refusal), "text/html; charset=utf-8"
    else:
        body, media_type = to_json(problem(refusal)), PROBLEM_JSON
    if connection.scope.get("method") == "HEAD":
        body = ""
    response = Response(body, refusal.status, media_type=media_type)
    response.raw_headers += [*refusal.raw_headers, (b"vary", VARY)]
    return response


def problem(refusal: Refusal) -> dict[str, Any]:
    """The RFC 9457 document. ``detail`` is text; everything for machines stands beside it."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(refusal.status).phrase,
        "status": refusal.status,
        "detail": refusal.detail,
        "reason": refusal.reason,
        **refusal.members,
    }


def prefers_html(accept: str) -> bool:
    """Whether an ``Accept`` header (RFC 9110 §12.5.1) names HTML, and no JSON at least as much."""
    if "html" not in accept.lower():
        return False
    weights: dict[str, float] = {}
    for entry in accept.split(",")[:32]:
        media_type, *parameters = (part.strip().lower() for part in entry.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        weights[media_type] = max(weight, weights.get(media_type, 0.0))
    return weights.get("text/html", 0.0) > max(weights.get(json_type, 0.0) for json_type in _JSON_TYPES)


def _page(refusal: Refusal) -> str:
    document = problem(refusal)
    rows = "".join(
        f"<dt>{label}</dt><dd>{html.escape(str(document[member]))}</dd>"
        for member, label in _PAGE_ROWS.items()
        if member in document
    )
    return _PAGE.format(title=document["title"], detail=html.escape(refusal.detail), rows=rows)
