"""The headers and envelopes of x402, versions 1 and 2, read strictly. Pure.

Source: specs/transports-v2/http.md and specs/x402-specification-v2.md (and -v1.md) of the x402 repository. Every header
is base64 of JSON, in the standard alphabet with padding.

    version  the 402 carries             the paying request      the paid answer
    2        PAYMENT-REQUIRED            PAYMENT-SIGNATURE       PAYMENT-RESPONSE
    1        ``accepts`` in its body     X-PAYMENT               X-PAYMENT-RESPONSE
"""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import to_json

from fastapi_tollbooth.errors import CredentialRefused
from fastapi_tollbooth.rails import RawHeaders

MAX_HEADER = 16_384
HEADERS: dict[bytes, Literal[1, 2]] = {b"payment-signature": 2, b"x-payment": 1}
RECEIPT_HEADERS = {1: "X-PAYMENT-RESPONSE", 2: "PAYMENT-RESPONSE"}

Short = Annotated[str, StringConstraints(max_length=128)]


class _Wire(BaseModel):
    """Camel-case on the wire. Of what others send, unknown members are theirs and are kept where they came from."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, strict=True)


class Requirements(_Wire):
    """Version 2: one way to pay, and what a payer says that they chose."""

    scheme: Short
    network: Short
    amount: Short
    asset: Short
    pay_to: Short
    max_timeout_seconds: int
    extra: dict[str, Any] | None = None


class PayloadV2(_Wire):
    """Version 2: what a payer sends."""

    x402_version: Literal[2] = Field(alias="x402Version")
    accepted: Requirements
    payload: dict[str, Any]
    extensions: dict[str, Any] | None = None


class PayloadV1(_Wire):
    """Version 1: what a payer sends."""

    x402_version: Literal[1] = Field(alias="x402Version")
    scheme: Short
    network: Short
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class X402Credential:
    """The header lines that carry a payment, as they came: (version, value)."""

    lines: tuple[tuple[int, bytes], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payment as it was sent: ``raw`` is what the facilitator is given, word for word.

    ``sent`` is the header's value, which who sends the payment again sends again.
    ``asset`` and ``quote`` are the payer's own words of which offer they chose; None where they do not say.
    """

    version: Literal[1, 2]
    scheme: str
    network: str
    payload: dict[str, Any] = field(repr=False)
    raw: dict[str, Any] = field(repr=False)
    sent: bytes = field(repr=False)
    asset: str | None = None
    extensions: dict[str, Any] | None = None
    quote: Any = field(default=None, repr=False)


def find(headers: RawHeaders) -> X402Credential | None:
    """The lines that carry a payment, unread."""
    lines = tuple((HEADERS[name], value) for name, value in headers if name in HEADERS)
    return X402Credential(lines) if lines else None


def parse(credential: X402Credential) -> Envelope:
    """Read a payment. Clients of both versions may send it under both names; then it must be one and the same.

    Raises:
        CredentialRefused: it cannot be read as a payment, or two different ones came.
    """
    values = {value.strip() for _, value in credential.lines}
    if len(values) > 1:
        raise malformed("there are two of them")
    sent = values.pop()
    document = _decode(sent)
    version = document.get("x402Version")
    try:
        if version == 1:
            v1 = PayloadV1.model_validate(document)
            return Envelope(1, v1.scheme, v1.network, v1.payload, document, sent)
        v2 = PayloadV2.model_validate(document)
    except (ValidationError, RecursionError) as error:
        raise malformed("it is not a payment payload of version 1 or 2") from error
    accepted = v2.accepted
    quote = (accepted.extra or {}).get("quote")
    chosen = (accepted.scheme, accepted.network)
    return Envelope(2, *chosen, v2.payload, document, sent, accepted.asset, v2.extensions, quote)


def encode(document: Any) -> str:
    """A document as a header value."""
    return base64.b64encode(to_json(document)).decode()


def digest(sent: bytes) -> str:
    """What names a payment as it was sent, and does not give it away."""
    return hashlib.sha256(b"digest" + sent).hexdigest()


def decode_json(raw: bytes) -> Any:
    """A JSON text in the one reading that everybody shares: no repeated names, no NaN, no lone surrogates.

    Raises:
        ValueError: it is not JSON, or not in this sense.
    """
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_members, parse_constant=_no_constant)
        to_json(document)
    except (RecursionError, UnicodeError) as error:
        raise ValueError("it is not JSON that everybody reads alike") from error
    return document


def malformed(why: str) -> CredentialRefused:
    """The refusal of a payment that cannot be read."""
    return CredentialRefused("malformed_payment", f"The payment cannot be read: {why}.")


def _decode(value: bytes) -> dict[str, Any]:
    if len(value) > MAX_HEADER:
        raise malformed("it is too long")
    try:
        document = decode_json(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError) as error:
        raise malformed("the header is not JSON in standard base64") from error
    if not isinstance(document, dict):
        raise malformed("the header does not hold a JSON object")
    return document


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name is given twice")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
