"""Quoted prices that hold without being kept: each offer carries its own, signed by the service. Pure.

    base64url( key 4 | expires 4 | asset 1 | price 8 | mac 16 )

Clients of version 2 send the offer that they chose back as it was. The signature covers also what the price is for and
what was asked for it: nothing of that is read from what a client sends, so a quote is good for nothing else.
"""

import base64
import binascii
import hashlib
import hmac
import json
import struct
from typing import NamedTuple

from fastapi_tollbooth.keys import KeyRing, fingerprint, hkdf
from fastapi_tollbooth.money import Asset, Money
from fastapi_tollbooth.rails.x402.payments import Asked
from fastapi_tollbooth.toll import Quote

STEP = 60
"""Quotes of one minute expire together, so that a challenge can be made once for all who ask in it."""

_PURPOSE = b"x402-quote"
_FORM = struct.Struct(">4sIBQ")
_ASSETS = (Asset.USD, Asset.BTC)
_LENGTH = 44
_MAC_BYTES = 16


class Quoted(NamedTuple):
    """A price that was asked, and until when it holds, in seconds since 1970."""

    price: Money
    expires_at: int


class Subject(NamedTuple):
    """What a price is for: requests to one URL that are priced alike."""

    service: str
    method: str
    url: str
    route: str
    variant: str


def subject_of(service: str, url: str, quote: Quote) -> Subject:
    """What a quote is for, of a request to this URL."""
    return Subject(service, quote.connection.scope.get("method", "WEBSOCKET"), url, quote.route, quote.variant)


def expiry(now: float, lasts: int) -> int:
    """When a quote expires that is to last so many seconds: that, or up to a minute more."""
    return (int(now) // STEP + 1) * STEP + lasts


class Quotes:
    """Signs quotes with the newest key of the ring, and reads those of any key in it."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = {fingerprint(secret): hkdf(secret, _PURPOSE) for secret in keys.secrets}
        self._newest = keys.newest

    def sign(self, quoted: Quoted, subject: Subject, asked: Asked) -> str:
        """The text that proves a quote."""
        price = quoted.price
        head = _FORM.pack(self._newest, quoted.expires_at, _ASSETS.index(price.asset), price.amount)
        return base64.urlsafe_b64encode(head + self._mac(self._newest, head, subject, asked)).decode()

    def read(self, text: object, subject: Subject, asked: Asked) -> Quoted | None:
        """The quote that we once signed for just this, expired or not; None when it is none."""
        if not isinstance(text, str) or len(text) != _LENGTH:
            return None
        try:
            raw = base64.b64decode(text, altchars=b"-_", validate=True)
            name, expires_at, asset, amount = _FORM.unpack(raw[: _FORM.size])
        except (binascii.Error, ValueError, struct.error):
            return None
        if name not in self._keys:
            return None
        if not hmac.compare_digest(raw[_FORM.size :], self._mac(name, raw[: _FORM.size], subject, asked)):
            return None
        return Quoted(Money(amount, _ASSETS[asset]), expires_at)

    def _mac(self, name: bytes, head: bytes, subject: Subject, asked: Asked) -> bytes:
        terms = (asked.network.id, asked.network.token.address, asked.pay_to, asked.amount)
        signed = head + json.dumps((subject, terms)).encode()
        return hmac.digest(self._keys[name], signed, hashlib.sha256)[:_MAC_BYTES]
