"""What an application's OpenAPI document says of prices: the 402, the ways to pay, and ``x-payment-info``."""

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import FastAPI

from fastapi_tollbooth.pricing import RoutePrice
from fastapi_tollbooth.rails import Rail
from fastapi_tollbooth.responses import PROBLEM_JSON
from fastapi_tollbooth.routes import priced_routes

SCHEMA_NAME = "PaymentRequired"

_PROBLEM_SCHEMA: dict[str, Any] = {
    "title": SCHEMA_NAME,
    "type": "object",
    "description": "An RFC 9457 problem document with one way to pay per accepted rail.",
    "required": ["title", "status", "detail", "reason"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer", "enum": [402]},
        "detail": {"type": "string", "description": "What to do, for people."},
        "reason": {"type": "string", "description": "Why, as a stable slug."},
        "price": {"type": "string", "description": "What this request costs."},
        "priceRule": {"type": "string", "description": "Which part of the route's price decided."},
        "tiers": {
            "type": "object",
            "description": "All tiers of this operation with their prices.",
            "additionalProperties": {"type": "string"},
        },
        "balance": {"type": "string", "description": "What is left of the credit that was presented."},
        "invoice": {"type": "string", "description": "L402: a BOLT11 Lightning invoice."},
        "macaroon": {"type": "string", "description": "L402: the credential that the invoice pays for."},
        "paymentHash": {"type": "string", "description": "L402: the invoice's payment hash in hex."},
        "amountSats": {"type": "integer", "description": "L402: what the invoice asks, in satoshis."},
        "priceSats": {"type": "integer", "description": "L402: the same, under the name that some clients budget by."},
        "expiresAt": {"type": "string", "format": "date-time", "description": "Until when the offer can be paid."},
        "statusUrl": {"type": "string", "description": "L402: where to ask what has become of the invoice."},
        "bundles": {
            "type": "array",
            "description": "L402: offers of more credit, chosen by `pay` in X-Toll-Bundle.",
            "items": {"type": "object"},
        },
        "caveat": {"type": "string", "description": "The condition of the credential that was not met."},
        "credential": {"type": "object", "description": "What the payment buys and how it is used."},
        "x402": {"type": "object", "description": "x402: what `PAYMENT-REQUIRED` says, version 2 of the protocol."},
        "x402Version": {"type": "integer", "description": "x402: 1, the version of `accepts` here."},
        "accepts": {"type": "array", "items": {"type": "object"}, "description": "x402: the ways to pay, version 1."},
    },
    "additionalProperties": True,
}


def document(app: FastAPI, rails: Sequence[Rail[Any]]) -> None:
    """Have ``app.openapi()`` describe the prices of its routes, whenever and however they are added.

    An ``app.openapi`` of the owner's own is kept and decorated.
    """
    original = app.openapi
    decorated: dict[str, Any] | None = None
    source: dict[str, Any] | None = None

    def openapi() -> dict[str, Any]:
        nonlocal decorated, source
        # FastAPI returns the same object until the routes change; decorating a copy keeps that true.
        schema = original()
        if schema is not source or decorated is None:
            source, decorated = schema, _decorate(copy.deepcopy(schema), app, rails)
        return decorated

    app.openapi = openapi  # type: ignore[method-assign]


def _decorate(schema: dict[str, Any], app: FastAPI, rails: Sequence[Rail[Any]]) -> dict[str, Any]:
    any_priced = False
    for context, gate in priced_routes(app):
        path_item = schema.get("paths", {}).get(getattr(context, "path_format", None), {})
        for method in getattr(context, "methods", None) or ():
            operation = path_item.get(method.lower())
            if operation is not None and method != "OPTIONS":
                _describe(operation, gate.price, rails)
                any_priced = True
    if any_priced:
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {}).setdefault(SCHEMA_NAME, _PROBLEM_SCHEMA)
        schemes = components.setdefault("securitySchemes", {})
        for rail in rails:
            schemes.setdefault(rail.name, rail.security_scheme())
    return schema


def _describe(operation: dict[str, Any], price: RoutePrice, rails: Sequence[Rail[Any]]) -> None:
    costs = f"Costs {_plain(price)}" + (f": {price.description}" if price.description else ".")
    operation["description"] = "\n\n".join(filter(None, [operation.get("description"), f"**{costs}**"]))
    operation["x-payment-info"] = {"offers": [offer for rail in rails if (offer := rail.offer(price.known))]}
    responses = operation.setdefault("responses", {})
    responses.setdefault("402", _response(price, rails))
    for status, description in _other_refusals(price):
        responses.setdefault(status, {"description": description})
    security = operation.setdefault("security", [])
    security += [{rail.name: []} for rail in rails if {rail.name: []} not in security]


_CHALLENGES: dict[str, dict[str, Any]] = {
    "l402": {
        "WWW-Authenticate": {
            "description": "One line per way to pay.",
            "schema": {"type": "array", "items": {"type": "string"}},
            "example": ['L402 macaroon="AgEJ...", invoice="lnbc..."'],
        }
    },
    "x402": {
        "PAYMENT-REQUIRED": {
            "description": "What to sign, as base64 of JSON (x402).",
            "schema": {"type": "string", "format": "byte"},
        }
    },
}


def _other_refusals(price: RoutePrice) -> Iterator[tuple[str, str]]:
    if price.reads_body or price.rules or price.tiers:
        yield "400", "The request cannot be read, or gives what decides its price more than once."
    if price.reads_body:
        yield "413", "The price depends on the body, and the body is too large."
    yield "429", "Too many requests: come again after Retry-After."
    yield "503", "The service cannot take money at the moment: come again after Retry-After, and do not pay twice."


def _response(price: RoutePrice, rails: Sequence[Rail[Any]]) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    for rail in rails:
        headers |= _CHALLENGES.get(rail.name, {})
    return {
        "description": f"Payment Required: this operation costs {_plain(price)}.",
        "headers": headers,
        "content": {
            PROBLEM_JSON: {
                "schema": {"$ref": f"#/components/schemas/{SCHEMA_NAME}"},
                "example": _example(price, rails),
            },
            "text/html": {"schema": {"type": "string"}},
        },
    }


def _example(price: RoutePrice, rails: Sequence[Rail[Any]]) -> dict[str, Any]:
    amount = price.known or next(price.amounts(), None) or price.max_price
    costs = "what the offers ask" if amount is None else str(amount)
    example: dict[str, Any] = {
        "type": "about:blank",
        "title": "Payment Required",
        "status": 402,
        "detail": f"This request costs {costs}. Pay one of the offers and send the credential that it buys.",
        "reason": "payment_required",
    }
    if amount is not None:
        example["price"] = str(amount)
    if any(rail.name == "l402" for rail in rails):
        example |= {"invoice": "lnbc...", "macaroon": "AgEJ...", "amountSats": 100}
    return example


def _plain(price: RoutePrice) -> str:
    # Descriptions are Markdown, which would make emphasis of the stars of two patterns.
    return re.sub(r"([\\*_`\[<])", r"\\\1", str(price))
