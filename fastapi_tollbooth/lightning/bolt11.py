"""BOLT11 invoices: reading them, and writing signed ones.

Source: https://github.com/lightning/bolts/blob/master/11-payment-encoding.md, checksum from BIP 173 (bech32). `decode`
checks form and checksum; `payee` checks the signature, which takes a few milliseconds of pure Python.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fastapi_tollbooth.errors import TollboothError
from fastapi_tollbooth.lightning.secp256k1 import compressed, recover, sign_recoverable
from fastapi_tollbooth.money import MSAT_PER_BTC

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_PREFIX = re.compile(r"ln(bcrt|bc|tbs|tb)(?:([0-9]+)([munp]?))?")
_UNITS = {"": 1, "m": 1_000, "u": 1_000_000, "n": 1_000_000_000, "p": 1_000_000_000_000}
_SIGNATURE_WORDS = 104
_TIMESTAMP_WORDS = 7
_DEFAULT_EXPIRY = 3_600
_MAX_LENGTH = 7_089
_MOST_MSAT = 21_000_000 * MSAT_PER_BTC
_FEATURES = (0b10000, 0b01000, 0b00000)  # bits 14 and 8: payment secret and variable-length onion required


class InvalidInvoice(TollboothError, ValueError):
    """The text is not a BOLT11 invoice."""


@dataclass(frozen=True, slots=True)
class DecodedInvoice:
    """What a BOLT11 invoice says. ``amount_msat`` is None when the payer may choose."""

    network: str
    amount_msat: int | None
    payment_hash: bytes
    payment_secret: bytes | None
    description: str | None
    created_at: datetime
    expires_at: datetime
    claimed_payee: bytes | None
    signature: bytes
    signed_digest: bytes


def decode(invoice: str) -> DecodedInvoice:
    """Read an invoice.

    Raises:
        InvalidInvoice: bad checksum, mixed case, unknown network, missing payment hash, or any other malformation.
    """
    human, words = _bech32_decode(invoice)
    match = _PREFIX.fullmatch(human)
    if match is None:
        raise InvalidInvoice("the invoice's prefix is not one of a Lightning network")
    if len(words) < _TIMESTAMP_WORDS + _SIGNATURE_WORDS:
        raise InvalidInvoice("the invoice is too short")
    created = _number(words[:_TIMESTAMP_WORDS])
    fields = _fields(words[_TIMESTAMP_WORDS:-_SIGNATURE_WORDS])
    payment_hash = _bytes32(fields.get("p"))
    if payment_hash is None:
        raise InvalidInvoice("the invoice has no payment hash")
    expiry = _number(fields["x"]) if "x" in fields else _DEFAULT_EXPIRY
    try:
        description = _to_bytes(fields["d"]).decode() if "d" in fields else None
        created_at = datetime.fromtimestamp(created, UTC)
        expires_at = created_at + timedelta(seconds=expiry)
    except (UnicodeDecodeError, OverflowError) as error:
        raise InvalidInvoice("a field of the invoice is out of range") from error
    return DecodedInvoice(
        match[1],
        _amount(match[2], match[3]),
        payment_hash,
        _bytes32(fields.get("s")),
        description,
        created_at,
        expires_at,
        _to_bytes(fields["n"]) if len(fields.get("n", ())) == 53 else None,
        _to_bytes(words[-_SIGNATURE_WORDS:]),
        _digest(human, words[:-_SIGNATURE_WORDS]),
    )


def payee(invoice: DecodedInvoice) -> bytes:
    """The public key of the node that signed an invoice, 33 bytes.

    Raises:
        InvalidInvoice: the signature is nobody's, or not the one's whom the invoice names.
    """
    r, s = int.from_bytes(invoice.signature[:32], "big"), int.from_bytes(invoice.signature[32:64], "big")
    try:
        signer = compressed(recover(invoice.signed_digest, r, s, invoice.signature[64]))
    except ValueError as error:
        raise InvalidInvoice("the invoice's signature is nobody's") from error
    if invoice.claimed_payee not in (None, signer):
        raise InvalidInvoice("the invoice is not signed by the node that it names")
    return signer


def encode(
    *,
    network: str,
    amount_msat: int,
    payment_hash: bytes,
    payment_secret: bytes,
    description: str,
    created_at: int,
    expiry_seconds: int,
    private_key: int,
) -> str:
    """Write a signed invoice. ``created_at`` is a Unix time; ``network`` one of ``bc``, ``tb``, ``tbs``, ``bcrt``."""
    human = f"ln{network}{_amount_text(amount_msat)}"
    words = [
        *_words(created_at, _TIMESTAMP_WORDS),
        *_field("p", _from_bytes(payment_hash)),
        *_field("s", _from_bytes(payment_secret)),
        *_field("d", _from_bytes(description.encode())),
        *_field("x", _words(expiry_seconds)),
        *_field("c", _words(18)),
        *_field("9", _FEATURES),
    ]
    r, s, recovery = sign_recoverable(private_key, _digest(human, words))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([recovery])
    words += _from_bytes(signature)
    return human + "1" + "".join(_ALPHABET[word] for word in [*words, *_checksum(human, words)])


def _digest(human: str, words: list[int]) -> bytes:
    return hashlib.sha256(human.encode() + _to_bytes(words, pad=True)).digest()


def _amount(digits: str | None, unit: str | None) -> int | None:
    if digits is None:
        return None
    if len(digits) > 20:
        raise InvalidInvoice("the invoice's amount is out of range")
    msat, remainder = divmod(int(digits) * MSAT_PER_BTC, _UNITS[unit or ""])
    if remainder or not 0 < msat <= _MOST_MSAT or digits.startswith("0"):
        raise InvalidInvoice("the invoice's amount is not a number of millisatoshi that can exist")
    return msat


def _amount_text(amount_msat: int) -> str:
    for unit, divisor in _UNITS.items():
        number, remainder = divmod(amount_msat * divisor, MSAT_PER_BTC)
        if not remainder:
            return f"{number}{unit}"
    raise AssertionError("every millisatoshi is ten pico-bitcoin")


def _fields(words: list[int]) -> dict[str, list[int]]:
    fields: dict[str, list[int]] = {}
    while words:
        if len(words) < 3:
            raise InvalidInvoice("a field of the invoice is cut off")
        kind, length = _ALPHABET[words[0]], words[1] * 32 + words[2]
        if len(words) < 3 + length:
            raise InvalidInvoice("a field of the invoice is cut off")
        fields.setdefault(kind, words[3 : 3 + length])
        words = words[3 + length :]
    return fields


def _field(kind: str, words: Iterable[int]) -> list[int]:
    words = list(words)
    return [_ALPHABET.index(kind), len(words) >> 5, len(words) & 31, *words]


def _bytes32(words: list[int] | None) -> bytes | None:
    return _to_bytes(words) if words is not None and len(words) == 52 else None


def _number(words: list[int]) -> int:
    number = 0
    for word in words:
        number = number << 5 | word
    return number


def _words(number: int, count: int = 0) -> list[int]:
    words: list[int] = []
    while number or len(words) < count:
        words.append(number & 31)
        number >>= 5
    return words[::-1]


def _from_bytes(data: bytes) -> list[int]:
    padding = -len(data) * 8 % 5
    return _words(int.from_bytes(data, "big") << padding, (len(data) * 8 + padding) // 5)


def _to_bytes(words: list[int], *, pad: bool = False) -> bytes:
    bits = len(words) * 5
    number = _number(words)
    if pad:
        return (number << (-bits % 8)).to_bytes((bits + 7) // 8, "big")
    return (number >> (bits % 8)).to_bytes(bits // 8, "big")


def _polymod(values: Iterable[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                check ^= generator
    return check


def _expand(human: str) -> list[int]:
    return [ord(char) >> 5 for char in human] + [0] + [ord(char) & 31 for char in human]


def _checksum(human: str, words: list[int]) -> list[int]:
    check = _polymod([*_expand(human), *words, 0, 0, 0, 0, 0, 0]) ^ 1
    return [check >> 5 * (5 - index) & 31 for index in range(6)]


def _bech32_decode(text: str) -> tuple[str, list[int]]:
    if len(text) > _MAX_LENGTH or not text.isascii() or (text != text.lower() and text != text.upper()):
        raise InvalidInvoice("the invoice is not bech32: mixed case, other characters, or too long")
    human, separator, data = text.lower().rpartition("1")
    if not separator or len(data) < 6:
        raise InvalidInvoice("the invoice is not bech32: no separator")
    words = [_ALPHABET.find(char) for char in data]
    if -1 in words or _polymod([*_expand(human), *words]) != 1:
        raise InvalidInvoice("the invoice's checksum does not match")
    return human, words[:-6]
