"""Just enough of Solana to know what a signed transaction pays: base58, the transaction's bytes, token accounts. Pure.

Sources: https://solana.com/docs/core/transactions (wire format), https://spl.solana.com/associated-token-account,
specs/schemes/exact/scheme_exact_svm.md of the x402 repository.
"""

import base64
import binascii
import hashlib
from typing import NamedTuple

from fastapi_tollbooth.errors import CredentialRefused
from fastapi_tollbooth.rails.x402.wire import malformed

MAX_TRANSACTION = 1_232
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_KEY = 32
_SIGNATURE = 64
_VERSIONED = 0x80
_TRANSFER_CHECKED = 12
_FIELD = 2**255 - 19
_CURVE_D = -121665 * pow(121666, -1, _FIELD) % _FIELD


class Transfer(NamedTuple):
    """The one token transfer of a transaction. ``digest`` names the message that was signed."""

    program: bytes
    mint: str
    destination: str
    payer: str
    amount: int
    digest: str

    def accounts_of(self, owner: str) -> tuple[str, ...]:
        """The token account of an owner: the associated one."""
        return (associated_account(owner, self.mint, self.program),)


class _Reader:
    """Walks over bytes; runs off their end with an IndexError."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        taken = self.data[self.at : self.at + count]
        if len(taken) != count:
            raise IndexError
        self.at += count
        return taken

    def short(self) -> int:
        """Solana's compact-u16."""
        value = 0
        for shift in (0, 7, 14):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
        raise IndexError


def transfer_of(transaction: str) -> Transfer:
    """What a transaction, in base64, pays.

    Raises:
        CredentialRefused: it cannot be read, or does not make exactly one checked token transfer.
    """
    try:
        raw = base64.b64decode(transaction, validate=True)
    except (binascii.Error, ValueError) as error:
        raise malformed("the transaction is not base64") from error
    if len(raw) > MAX_TRANSACTION:
        raise malformed("the transaction is larger than Solana takes")
    try:
        return _transfer(raw)
    except IndexError:
        raise malformed("the transaction cannot be read") from None


def _transfer(raw: bytes) -> Transfer:
    reader = _Reader(raw)
    reader.take(reader.short() * _SIGNATURE)
    message = raw[reader.at :]
    if reader.data[reader.at] & _VERSIONED:
        reader.take(1)
    reader.take(3)  # how many keys sign and which are read-only
    keys = [reader.take(_KEY) for _ in range(reader.short())]
    reader.take(_KEY)  # the recent blockhash
    found: list[Transfer] = []
    for _ in range(reader.short()):
        program, accounts = keys[reader.take(1)[0]], reader.take(reader.short())
        data = reader.take(reader.short())
        if program not in TOKEN_PROGRAMS:
            continue
        if len(data) != 10 or data[0] != _TRANSFER_CHECKED or len(accounts) < 4:
            raise _no_single_transfer()
        _source, mint, destination, owner = (encode_base58(keys[index]) for index in accounts[:4])
        amount, digest = int.from_bytes(data[1:9], "little"), hashlib.sha256(message).hexdigest()
        found.append(Transfer(program, mint, destination, owner, amount, digest))
    if len(found) != 1:
        raise _no_single_transfer()
    return found[0]


def _no_single_transfer() -> CredentialRefused:
    return malformed("the transaction does not make exactly one checked token transfer")


def associated_account(owner: str, mint: str, program: bytes) -> str:
    """The account that holds an owner's tokens of one mint: an address derived so that nobody has a key for it."""
    seeds = decode_base58(owner) + program + decode_base58(mint)
    for bump in range(255, -1, -1):
        candidate = hashlib.sha256(seeds + bytes([bump]) + _ASSOCIATED_PROGRAM + b"ProgramDerivedAddress").digest()
        if not _on_curve(candidate):
            return encode_base58(candidate)
    raise AssertionError("half of all points are off the curve")


def encode_base58(data: bytes) -> str:
    """Bytes in the alphabet that Bitcoin chose."""
    number, text = int.from_bytes(data), ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def decode_base58(text: str) -> bytes:
    """The bytes that `encode_base58` encoded.

    Raises:
        ValueError: a character is not of the alphabet.
    """
    number = 0
    for character in text:
        number = number * 58 + _ALPHABET.index(character)
    return b"\0" * (len(text) - len(text.lstrip("1"))) + number.to_bytes((number.bit_length() + 7) // 8)


def _on_curve(point: bytes) -> bool:
    # RFC 8032 §5.1.3: a y-coordinate belongs to a point when (y² - 1) / (d y² + 1) is a square.
    y = (int.from_bytes(point, "little") & (2**255 - 1)) % _FIELD
    square = (y * y - 1) * pow(_CURVE_D * y * y + 1, -1, _FIELD) % _FIELD
    return square == 0 or pow(square, (_FIELD - 1) // 2, _FIELD) == 1


TOKEN_PROGRAMS = (
    decode_base58("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"),
    decode_base58("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"),
)
_ASSOCIATED_PROGRAM = decode_base58("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
