"""The 402 as x402 clients of both versions read it: one header for the newer, the body for the older. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastapi_tollbooth.rails.x402.offers import Offer
from fastapi_tollbooth.rails.x402.wire import encode

MAX_HEADER = 5_500
"""Characters that the header may have, so that all of a 402's headers stay below the 8 KB that proxies take."""


class Resource(NamedTuple):
    """What is paid for."""

    url: str
    description: str


def payment_required(
    resource: Resource, offers: Sequence[Offer], extensions: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """The header's value and the members of the body.

    What does not fit into the header is left out of it, in this order: the longest extensions, the description,
    the last offers.
    """
    document = _v2(resource, offers, extensions)
    header = encode(document)
    short = dict(extensions or {})
    while len(header) > MAX_HEADER and short:
        del short[max(short, key=lambda name: len(encode(short[name])))]
        header = encode(_v2(resource, offers, short))
    if len(header) > MAX_HEADER:
        header = encode(_v2(Resource(resource.url, ""), offers, None))
    kept = len(offers)
    while len(header) > MAX_HEADER and kept > 1:
        kept -= 1
        header = encode(_v2(Resource(resource.url, ""), offers[:kept], None))
    return header, _body(document, resource, offers)


def _v2(resource: Resource, offers: Sequence[Offer], extensions: Mapping[str, Any] | None) -> dict[str, Any]:
    described: dict[str, Any] = {"url": resource.url}
    if resource.description:
        described["description"] = resource.description
    document: dict[str, Any] = {"x402Version": 2, "resource": described, "accepts": [offer.v2() for offer in offers]}
    if extensions:
        document["extensions"] = dict(extensions)
    return document


def _body(document: dict[str, Any], resource: Resource, offers: Sequence[Offer]) -> dict[str, Any]:
    members: dict[str, Any] = {"x402": document | {"singleUse": True}}
    # Clients of version 1 know networks by their familiar names, and fail on a list that has others.
    named = [offer.v1(resource.url, resource.description) for offer in offers if offer.asked.network.name is not None]
    if named:
        members |= {"x402Version": 1, "accepts": named, "error": "Pay one of these, and send X-PAYMENT."}
    return members
