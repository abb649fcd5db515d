"""The names that payers give to their requests, so that asking again is not asking twice. Pure.

Source: specs/extensions/payment_identifier.md of the x402 repository.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi_tollbooth.errors import AmbiguousRequest

EXTENSION = "payment-identifier"

_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{16,128}")
_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "required": {"type": "boolean"},
        "id": {"type": "string", "minLength": 16, "maxLength": 128, "pattern": "^[a-zA-Z0-9_-]+$"},
    },
    "required": ["required"],
}


@dataclass(frozen=True, slots=True)
class Named:
    """A request that its payer gave a name.

    Attributes:
        key: The name among all payers' names, as a hash.
        request: What is asked, as a hash.
        secret: What the answer is sealed with: whoever has sent the payment can make it, and nobody else.
    """

    key: str
    request: str
    secret: bytes = field(repr=False)


def declaration(*, required: bool) -> dict[str, Any]:
    """What a 402 says of identifiers."""
    return {"info": {"required": required}, "schema": _SCHEMA}


def read(extensions: Mapping[str, Any] | None, *, required: bool) -> str | None:
    """The identifier that a payment carries, if any.

    Raises:
        AmbiguousRequest: it is not of the form that identifiers have, or there is none where one is required.
    """
    declared = (extensions or {}).get(EXTENSION, {})
    info = declared.get("info", {}) if isinstance(declared, dict) else None
    if not isinstance(info, dict):
        raise _malformed()
    identifier = info.get("id")
    if identifier is None:
        if required:
            raise AmbiguousRequest(
                "identifier_required", f"Give the request an identifier: extensions[{EXTENSION!r}].info.id."
            )
        return None
    if not isinstance(identifier, str) or not _IDENTIFIER.fullmatch(identifier):
        raise _malformed()
    return identifier


def key_of(payer: str, identifier: str) -> str:
    """One payer's identifier, as a hash: identifiers need not be unique among payers."""
    return hashlib.sha256(json.dumps([payer, identifier]).encode()).hexdigest()


def secret_of(sent: bytes) -> bytes:
    """What seals the answer to a request that came with this payment. Not to be found from the payment's digest."""
    return hashlib.sha256(b"answer" + sent).digest()


def request_digest(head: tuple[str, ...], body: bytes) -> str:
    """What is asked, as a hash."""
    return hashlib.sha256(json.dumps(head).encode() + b"\n" + body).hexdigest()


def _malformed() -> AmbiguousRequest:
    return AmbiguousRequest(
        "malformed_identifier", "An identifier has 16 to 128 characters: letters, digits, hyphens and underscores."
    )
