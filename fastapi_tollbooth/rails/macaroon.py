"""L402 macaroons behind a strict door. Pure: no I/O.

Format: libmacaroons V2 binary as Go's macaroon.v2 writes it; identifier of 66 bytes per the L402 protocol specification
(https://github.com/lightninglabs/L402/blob/master/protocol-specification.md): version (uint16, 0) ‖ payment hash (32)
‖ token id (32). The token id holds what the payment buys, out of reach of whoever appends caveats:

    1 byte   layout, 2
    1 byte   kind (0 buys credit with its invoice, 2 opens credit that was paid otherwise) + asset (0 USD, 1 BTC)
    1 byte   how many of the caveats the service minted: those, the first ones, nobody else can have written
    8 bytes  amount of the credit
    8 bytes  micro-dollars per bitcoin that it was sold at, 0 when no exchange was needed
    4 bytes  satoshis that the invoice asks
    4 bytes  fingerprint of the secret that signs it
    5 bytes  random

Each token has a root key of its own, derived from that secret and the whole identifier.
"""

import base64
import binascii
import hashlib
import re
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from pymacaroons import MACAROON_V2, Macaroon, Verifier
from pymacaroons.serializers import BinarySerializer

from fastapi_tollbooth.errors import CredentialRefused
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.money import Asset, Money, Rate

MAX_BYTES = 2_048
MAX_CAVEATS = 32

MAX_INVOICE_SATS = 2**32 - 1

_IDENTIFIER = struct.Struct(">H32sBBBQQI4s5s")
_VERSION, _LAYOUT = 0, 2
_ASSETS = (Asset.USD, Asset.BTC)
_STANDARD = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
_URL_SAFE = re.compile(rb"[A-Za-z0-9_-]+={0,2}")


class Kind(IntEnum):
    """Where the money behind a token comes from."""

    INVOICE = 0
    """From the Lightning invoice of its payment hash: the first proof of payment credits the account."""
    CREDIT = 2
    """From elsewhere, before the token was handed out: it opens an account and never credits it."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """Who a token is: the payment that bought it, and what was bought. ``minted`` caveats are the service's own."""

    payment_hash: bytes
    credit: Money
    rate: Rate | None
    key: bytes
    nonce: bytes
    kind: Kind = Kind.INVOICE
    sats: int = 0
    minted: int = 0

    @classmethod
    def new(
        cls,
        payment_hash: bytes,
        credit: Money,
        rate: Rate | None,
        key: bytes,
        *,
        kind: Kind = Kind.INVOICE,
        sats: int = 0,
    ) -> "Identifier":
        """The identifier of a new token. ``sats`` is what its invoice asks."""
        return cls(payment_hash, credit, rate, key, secrets.token_bytes(5), kind, sats)

    def pack(self) -> bytes:
        """The 66 bytes of the identifier."""
        return _IDENTIFIER.pack(
            _VERSION,
            self.payment_hash,
            _LAYOUT,
            self.kind + _ASSETS.index(self.credit.asset),
            self.minted,
            self.credit.amount,
            self.rate.micro_usd_per_btc if self.rate else 0,
            self.sats,
            self.key,
            self.nonce,
        )

    @classmethod
    def unpack(cls, raw: bytes) -> "Identifier":
        """Read the 66 bytes of an identifier.

        Raises:
            ValueError: not an identifier that this service can have made.
        """
        if len(raw) != _IDENTIFIER.size:
            raise ValueError("an identifier has 66 bytes")
        version, payment_hash, layout, kind, minted, amount, rate, sats, key, nonce = _IDENTIFIER.unpack(raw)
        if (version, layout) != (_VERSION, _LAYOUT) or kind > 3:
            raise ValueError("unknown version, layout, kind or asset")
        credit = Money(amount, _ASSETS[kind & 1])
        return cls(payment_hash, credit, Rate(rate) if rate else None, key, nonce, Kind(kind & 2), sats, minted)


@dataclass(frozen=True, slots=True)
class Token:
    """A token whose signature is right. Its caveats, in order, have not been judged yet."""

    identifier: Identifier
    caveats: tuple[tuple[str, str], ...]

    @property
    def minted(self) -> tuple[tuple[str, str], ...]:
        """The caveats that the service minted."""
        return self.caveats[: self.identifier.minted]

    @property
    def appended(self) -> tuple[tuple[str, str], ...]:
        """The caveats that whoever held the token appended."""
        return self.caveats[self.identifier.minted :]

    def prefix(self, length: int) -> str:
        """A name for the token as it was with its first caveats, which all tokens made from that one share."""
        digest = hashlib.sha256(self.identifier.pack())
        for condition, value in self.caveats[:length]:
            digest.update(hashlib.sha256(f"{condition}={value}".encode()).digest())
        return digest.hexdigest()


def mint(keys: KeyRing, identifier: Identifier, location: str, caveats: Sequence[str]) -> str:
    """A signed token, in standard base64 with padding, which the strictest clients want."""
    packed = replace(identifier, minted=len(caveats)).pack()
    root = keys.derive(identifier.key, b"l402 root key" + packed)
    if root is None:
        raise ValueError("the identifier names a key that is not in the ring")
    return signed(root, packed, location, caveats)


def signed(root: bytes, identifier: bytes, location: str, caveats: Sequence[str]) -> str:
    """A token with this root key and this identifier."""
    return _encode(Macaroon(version=MACAROON_V2, location=location, identifier=identifier, key=root), caveats)


def narrow(macaroon: str, *caveats: str) -> str:
    """A token that is good for less, as any holder can make it, without a key: caveats can be added, never removed.

    Raises:
        CredentialRefused: not a macaroon of this form, or too much of it.
    """
    raw = decode_base64(macaroon.encode("utf-8", "replace"))
    if _sections(raw) is None:
        raise malformed("the macaroon is not in the V2 binary format")
    narrowed = _encode(BinarySerializer().deserialize_raw(raw), caveats)
    if _sections(base64.b64decode(narrowed)) is None:
        raise malformed("the macaroon would have too many caveats, or be too large")
    return narrowed


def _encode(macaroon: Macaroon, caveats: Sequence[str]) -> str:
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
    if len(sections) - 1 < identifier.minted:
        raise CredentialRefused("invalid_signature", "The macaroon has lost caveats that it was minted with.")
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
