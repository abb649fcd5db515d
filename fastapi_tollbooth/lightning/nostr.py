"""Nostr events and how they are encrypted, as far as Nostr Wallet Connect needs them. Needs the extra ``nwc``.

Sources: https://github.com/nostr-protocol/nips, 01.md (events), 44.md (encryption, version 2) and 04.md (the older
encryption, which some wallets still want); signatures and x-only keys: BIP 340.
"""

import base64
import hashlib
import hmac
import json
import os
from dataclasses import dataclass
from typing import Any

from coincurve import PrivateKey, PublicKey, PublicKeyXOnly
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

_VERSION = b"\x02"
_SMALLEST_PAYLOAD = 1 + 32 + 32 + 2 + 32
_MOST_TEXT = 65_535


class InvalidEvent(ValueError):
    """An event is malformed, not signed by its author, or not encrypted for the reader."""


@dataclass(frozen=True, slots=True)
class Event:
    """A signed event. ``id`` and ``author`` are in hex."""

    id: str
    author: str
    kind: int
    tags: tuple[tuple[str, ...], ...]
    content: str
    created_at: int
    signature: str

    def tag(self, name: str) -> str | None:
        """The first value of a tag."""
        return next((tag[1] for tag in self.tags if len(tag) > 1 and tag[0] == name), None)

    def document(self) -> dict[str, Any]:
        """The event as relays want it."""
        return {
            "id": self.id,
            "pubkey": self.author,
            "kind": self.kind,
            "tags": [list(tag) for tag in self.tags],
            "content": self.content,
            "created_at": self.created_at,
            "sig": self.signature,
        }


class Keys:
    """A secret key: signs events, and shares secrets with others.

    Raises:
        ValueError: it is not a key of the curve.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32:
            raise ValueError("a secret key has 32 bytes")
        self._key = PrivateKey(secret)
        self.public = self._key.public_key.format()[1:]

    def sign(self, kind: int, tags: list[list[str]], content: str, created_at: int) -> Event:
        """An event of this author's."""
        author, frozen = self.public.hex(), tuple(tuple(tag) for tag in tags)
        digest = _digest(author, created_at, kind, frozen, content)
        signature = self._key.sign_schnorr(digest, os.urandom(32)).hex()
        return Event(digest.hex(), author, kind, frozen, content, created_at, signature)

    def shared(self, public: bytes) -> bytes:
        """The x coordinate that both sides of a conversation can compute, 32 bytes.

        Raises:
            ValueError: the other side's is not a key of the curve.
        """
        return PublicKey(b"\x02" + public).multiply(self._key.secret).format()[1:]


def read_event(document: Any) -> Event:
    """Read an event and make sure that it is its author's.

    Raises:
        InvalidEvent: it is not.
    """
    try:
        event = Event(
            document["id"],
            document["pubkey"],
            document["kind"],
            tuple(tuple(map(str, tag)) for tag in document["tags"]),
            document["content"],
            document["created_at"],
            document["sig"],
        )
        digest = _digest(event.author, event.created_at, event.kind, event.tags, event.content)
        author = PublicKeyXOnly(bytes.fromhex(event.author))
        if digest.hex() != event.id or not author.verify(bytes.fromhex(event.signature), digest):
            raise InvalidEvent("the event is not signed by its author")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidEvent("not an event") from error
    return event


def encrypt(shared: bytes, text: str, nonce: bytes | None = None) -> str:
    """Encrypt as NIP-44 version 2 says."""
    nonce = nonce or os.urandom(32)
    data = text.encode()
    if not 0 < len(data) <= _MOST_TEXT:
        raise ValueError("the text cannot be encrypted: empty, or too long")
    cipher_key, cipher_nonce, mac_key = _message_keys(shared, nonce)
    padded = len(data).to_bytes(2, "big") + data.ljust(_padded_length(len(data)), b"\x00")
    ciphertext = _chacha20(cipher_key, cipher_nonce, padded)
    mac = hmac.digest(mac_key, nonce + ciphertext, hashlib.sha256)
    return base64.b64encode(_VERSION + nonce + ciphertext + mac).decode()


def decrypt(shared: bytes, content: str) -> str:
    """Decrypt what the other side wrote, in either of the two forms.

    Raises:
        InvalidEvent: it is neither, or was changed on its way.
    """
    try:
        return _decrypt_04(shared, content) if "?iv=" in content else _decrypt_44(shared, content)
    except ValueError as error:
        raise InvalidEvent("the event cannot be decrypted") from error


def encrypt_04(shared: bytes, text: str) -> str:
    """Encrypt as NIP-04 says, for wallets that know no better."""
    vector = os.urandom(16)
    padder, encryptor = PKCS7(128).padder(), Cipher(AES(shared), CBC(vector)).encryptor()
    padded = padder.update(text.encode()) + padder.finalize()
    ciphertext = encryptor.update(padded) + encryptor.finalize()
    return f"{base64.b64encode(ciphertext).decode()}?iv={base64.b64encode(vector).decode()}"


def _decrypt_44(shared: bytes, content: str) -> str:
    payload = base64.b64decode(content, validate=True)
    if len(payload) < _SMALLEST_PAYLOAD or payload[:1] != _VERSION:
        raise ValueError("another version, or too short")
    nonce, ciphertext, mac = payload[1:33], payload[33:-32], payload[-32:]
    cipher_key, cipher_nonce, mac_key = _message_keys(shared, nonce)
    if not hmac.compare_digest(hmac.digest(mac_key, nonce + ciphertext, hashlib.sha256), mac):
        raise ValueError("changed on its way")
    padded = _chacha20(cipher_key, cipher_nonce, ciphertext)
    length = int.from_bytes(padded[:2], "big")
    if not length or len(padded) != 2 + _padded_length(length) or any(padded[2 + length :]):
        raise ValueError("padded in another way")
    return padded[2 : 2 + length].decode()


def _decrypt_04(shared: bytes, content: str) -> str:
    ciphertext, _, vector = content.partition("?iv=")
    decryptor = Cipher(AES(shared), CBC(base64.b64decode(vector, validate=True))).decryptor()
    padded = decryptor.update(base64.b64decode(ciphertext, validate=True)) + decryptor.finalize()
    unpadder = PKCS7(128).unpadder()
    return (unpadder.update(padded) + unpadder.finalize()).decode()


def _message_keys(shared: bytes, nonce: bytes) -> tuple[bytes, bytes, bytes]:
    # HKDF with SHA-256, RFC 5869: extracted once for a conversation, expanded for each message.
    conversation = hmac.digest(b"nip44-v2", shared, hashlib.sha256)
    block, expanded = b"", b""
    for counter in (1, 2, 3):
        block = hmac.digest(conversation, block + nonce + bytes([counter]), hashlib.sha256)
        expanded += block
    return expanded[:32], expanded[32:44], expanded[44:76]


def _chacha20(key: bytes, nonce: bytes, data: bytes) -> bytes:
    # RFC 8439 with the counter at 0, which this library wants before the nonce.
    return Cipher(ChaCha20(key, b"\x00" * 4 + nonce), mode=None).encryptor().update(data)


def _padded_length(length: int) -> int:
    if length <= 32:
        return 32
    power = 1 << (length - 1).bit_length()
    chunk = max(32, power // 8)
    return -(-length // chunk) * chunk


def _digest(author: str, created_at: int, kind: int, tags: tuple[tuple[str, ...], ...], content: str) -> bytes:
    document = [0, author, created_at, kind, tags, content]
    return hashlib.sha256(json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()).digest()
