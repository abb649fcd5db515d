"""The token that lets somebody ask what has become of an invoice, and nothing more. Pure.

It holds what the service needs to know to credit the payment, so that asking works on every worker and after a restart
though nothing was written for an unpaid invoice. It is signed; it does not pay, and it opens no account.
"""

import base64
import binascii
import hashlib
import hmac
from datetime import UTC, datetime
from typing import NamedTuple

from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.rails.macaroon import Identifier

MAX_TOKEN = 1_024
_IDENTIFIER_BYTES = 66
_TIME_BYTES = 5
_MAC_BYTES = 16


class InvoiceClaim(NamedTuple):
    """An invoice, the account that its payment credits, and until when it can be paid."""

    identifier: Identifier
    account: str
    expires_at: datetime


def write_invoice_token(keys: KeyRing, claim: InvoiceClaim) -> str:
    """The token for an invoice, safe in a URL."""
    expiry = int(claim.expires_at.timestamp()).to_bytes(_TIME_BYTES, "big")
    body = claim.identifier.pack() + expiry + claim.account.encode()
    return base64.urlsafe_b64encode(body + _mac(keys, claim.identifier.key, body)).rstrip(b"=").decode()


def read_invoice_token(keys: KeyRing, token: str) -> InvoiceClaim | None:
    """What a token says; None when this service did not write it."""
    if len(token) > MAX_TOKEN or not token.isascii():
        return None
    try:
        raw = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        identifier = Identifier.unpack(raw[:_IDENTIFIER_BYTES])
    except (binascii.Error, ValueError):
        return None
    body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(keys, identifier.key, body)):
        return None
    expiry = int.from_bytes(body[_IDENTIFIER_BYTES : _IDENTIFIER_BYTES + _TIME_BYTES], "big")
    account = body[_IDENTIFIER_BYTES + _TIME_BYTES :].decode()
    return InvoiceClaim(identifier, account, datetime.fromtimestamp(expiry, UTC))


def _mac(keys: KeyRing, key: bytes, body: bytes) -> bytes:
    # A key that is not in the ring verifies nothing: the empty answer has another length than any MAC.
    secret = keys.derive(key, b"l402 invoice token")
    return b"" if secret is None else hmac.digest(secret, body, hashlib.sha256)[:_MAC_BYTES]
