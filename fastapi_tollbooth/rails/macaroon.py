"""L402 macaroons behind a strict door. Pure: no I/O.

Format: libmacaroons V2 binary as Go's macaroon.v2 writes it; identifier of 66 bytes per the L402 protocol specification
(https://github.com/lightninglabs/L402/blob/master/protocol-specification.md): version (uint16, 0) ‖ payment hash (32)
‖ token id (32). The token id holds what the payment buys, out of reach of whoever appends caveats:

    1 byte   layout, 1
    1 byte   asset of the credit: 0 USD, 1 BTC
    8 bytes  amount of the credit
    8 bytes  micro-dollars per bitcoin that it was sold at, 0 when no exchange was needed
    4 bytes  fingerprint of the secret that signs it
   10 bytes  random

Each token has a root key of its own, derived from that secret and the whole identifier.
"""

import base64
import binascii
import re
import secrets
import struct
from dataclasses import dataclass

from pymacaroons import MACAROON_V2, Macaroon, Verifier
from pymacaroons.serializers import BinarySerializer

from fastapi_tollbooth.errors import CredentialRefused
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.money import Asset, Money, Rate

MAX_BYTES = 2_048
MAX_CAVEATS = 32

_IDENTIFIER = struct.Struct(">H32sBBQQ4s10s")
_VERSION, _LAYOUT = 0, 1
_ASSETS = (Asset.USD, Asset.BTC)
_STANDARD = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
_URL_SAFE = re.compile(rb"[A-Za-z0-9_-]+={0,2}")


@dataclass(frozen=True, slots=True)
class Identifier:
    """Who a token is: the payment that bought it, and what was bought."""

    payment_hash: bytes
    credit: Money
    rate: Rate | None
    key: bytes
    nonce: bytes

    @classmethod
    def new(cls, payment_hash: bytes, credit: Money, rate: Rate | None, key: bytes) -> "Identifier":
        """The identifier of a new token."""
        return cls(payment_hash, credit, rate, key, secrets.token_bytes(10))

    def pack(self) -> bytes:
        """The 66 bytes of the identifier."""
        rate = self.rate.micro_usd_per_btc if self.rate else 0
        asset = _ASSETS.index(self.credit.asset)
        return _IDENTIFIER.pack(
            _VERSION, self.payment_hash, _LAYOUT, asset, self.credit.amount, rate, self.key, self.nonce
        )

    @classmethod
    def unpack(cls, raw: bytes) -> "Identifier":
        """Read the 66 bytes of an identifier.

        Raises:
            ValueError: not an identifier that this service can have made.
        """
        if len(raw) != _IDENTIFIER.size:
            raise ValueError("an identifier has 66 bytes")
        version, payment_hash, layout, asset, amount, rate, key, nonce = _IDENTIFIER.unpack(raw)
        if (version, layout) != (_VERSION, _LAYOUT) or asset >= len(_ASSETS):
            raise ValueError("unknown version, layout or asset")
        return cls(payment_hash, Money(amount, _ASSETS[asset]), Rate(rate) if rate else None, key, nonce)


@dataclass(frozen=True, slots=True)
class Token:
    """A token whose signature is right. Its caveats have not been judged yet."""

    identifier: Identifier
    caveats: tuple[tuple[str, str], ...]


def mint(keys: KeyRing, identifier: Identifier, location: str, caveats: list[str]) -> str:
    """A signed token, in standard base64 with padding, which the strictest clients want."""
    packed = identifier.pack()
    root = keys.derive(identifier.key, b"l402 root key" + packed)
    if root is None:
        raise ValueError("the identifier names a key that is not in the ring")
    macaroon = Macaroon(version=MACAROON_V2, location=location, identifier=packed, key=root)
    for caveat in caveats:
        macaroon.add_first_party_caveat(caveat)
    return base64.b64encode(BinarySerializer().serialize_raw(macaroon)).decode()


def decode_base64(text: bytes) -> bytes:
    """Standard or url-safe base64, padded or not, and nothing else.

    Raises:
        CredentialRefused: other characters, or too long for a macaroon.
    """
    standard = _STANDARD.fullmatch(text) is not None
    if len(text) > MAX_BYTES * 4 // 3 + 4 or not (standard or _URL_SAFE.fullmatch(text)):
        raise malformed("the macaroon is not base64, or is too large")
    stripped = text.rstrip(b"=")
    try:
        padded = stripped + b"=" * (-len(stripped) % 4)
        return base64.b64decode(padded, altchars=None if standard else b"-_", validate=True)
    except binascii.Error as error:
        raise malformed("the macaroon is not base64") from error


def peek_payment_hash(raw: bytes) -> bytes | None:
    """The payment hash that an unverified token claims; None when it is no token of this service's form."""
    parts = _sections(raw)
    if parts is None or len(parts[0]) != _IDENTIFIER.size:
        return None
    return parts[0][2:34]


def open_token(keys: KeyRing, raw: bytes) -> Token:
    """Check form, size and signature of a token, in this order.

    Raises:
        CredentialRefused: ``malformed_credential`` or ``invalid_signature``.
    """
    sections = _sections(raw)
    if sections is None:
        raise malformed("the macaroon is not in the V2 binary format, or has too many caveats")
    try:
        identifier = Identifier.unpack(sections[0])
    except ValueError as error:
        raise CredentialRefused("invalid_signature", "This macaroon was not issued by this service.") from error
    root = keys.derive(identifier.key, b"l402 root key" + sections[0])
    if root is None:
        raise CredentialRefused(
            "invalid_signature", "This macaroon was not issued by this service, or its key is gone."
        )
    try:
        # Caveats are judged after the signature and with reasons of their own, so here every caveat may pass.
        verifier = Verifier()
        verifier.satisfy_general(lambda _caveat: True)
        verifier.verify(BinarySerializer().deserialize_raw(raw), root)
    except Exception as error:
        raise CredentialRefused("invalid_signature", "The macaroon's signature is not right.") from error
    return Token(identifier, tuple(_split(caveat) for caveat in sections[1:]))


def malformed(detail: str) -> CredentialRefused:
    """The refusal of a credential that cannot be read."""
    return CredentialRefused("malformed_credential", f"The credential cannot be read: {detail}.")


def _split(caveat: bytes) -> tuple[str, str]:
    condition, _, value = caveat.decode("utf-8", "replace").partition("=")
    return condition.strip(), value.strip()


def _sections(raw: bytes) -> list[bytes] | None:
    """The identifier and then every caveat of a V2 token, read linearly, so that the library never sees a monster.

    None for anything that is not exactly one V2 token with first-party caveats only and a 32-byte signature.
    """
    if len(raw) > MAX_BYTES or not raw or raw[0] != 2:
        return None
    sections: list[bytes] = []
    position, location_allowed = 1, True
    while position < len(raw):
        tag = raw[position]
        position += 1
        if tag == 0:  # end of a section: after the last caveat's comes one more, then the signature
            if position < len(raw) and raw[position] == 0 and sections:
                return sections if _is_signature(raw[position + 1 :]) else None
            location_allowed = True
            continue
        length, position = _uvarint(raw, position)
        if length is None or position + length > len(raw):
            return None
        if tag == 1 and location_allowed:
            location_allowed = False
        elif tag == 2 and len(sections) <= MAX_CAVEATS:
            sections.append(raw[position : position + length])
            if position + length >= len(raw) or raw[position + length] != 0:
                return None
        else:
            return None
        position += length
    return None


def _is_signature(rest: bytes) -> bool:
    return len(rest) == 34 and rest[:2] == b"\x06\x20"


def _uvarint(raw: bytes, position: int) -> tuple[int | None, int]:
    value = shift = 0
    while position < len(raw) and shift <= 21:
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    return None, position
