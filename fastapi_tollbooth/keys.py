"""The key ring: the service's long-lived secrets, and the keys derived from them.

One secret signs everything new, the newest; older ones stay in the ring so that what they signed stays good. Keys for
single purposes are derived with HKDF-SHA256 (RFC 5869), so no key is used for two things.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import make_url

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.settings import MIN_SECRET_LENGTH, TollboothSettings

_FINGERPRINT_BYTES = 4


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Secrets, newest first. Keys are named by a fingerprint, which reveals nothing about them."""

    secrets: tuple[bytes, ...] = field(repr=False)

    @property
    def newest(self) -> bytes:
        """The fingerprint of the key that signs what is new."""
        return fingerprint(self.secrets[0])

    def derive(self, name: bytes, purpose: bytes) -> bytes | None:
        """The 32-byte key for one purpose from the secret with that fingerprint; None when it is not in the ring."""
        for secret in self.secrets:
            if fingerprint(secret) == name:
                return hkdf(secret, purpose)
        return None


def fingerprint(secret: bytes) -> bytes:
    """Four bytes that name a secret."""
    return hkdf(secret, b"fingerprint")[:_FINGERPRINT_BYTES]


def hkdf(secret: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) without salt, one block of 32 bytes."""
    extracted = hmac.digest(b"\x00" * 32, secret, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)


def load_key_ring(settings: TollboothSettings) -> KeyRing:
    """The configured key ring; in development one that is made once and kept beside the database.

    Raises:
        ConfigurationError: no secret is configured in production, one is too short, or one cannot be kept.
    """
    if configured := settings.key_ring():
        return KeyRing(configured)
    if settings.environment == "production":
        raise ConfigurationError(
            "no_secret",
            "TOLLBOOTH_SECRET is not set, and credentials signed with a throw-away secret would die with this process: "
            'python -c "import secrets; print(secrets.token_hex(32))" makes one',
        )
    path = _development_secret_path(settings.database_url)
    try:
        return KeyRing((secrets.token_hex(32).encode() if path is None else _read_or_create(path),))
    except OSError as error:
        raise ConfigurationError(
            "unusable_secret_file",
            f"the secret of development cannot be kept in {path} ({error.strerror}): name a folder that is there "
            "and can be written to in TOLLBOOTH_DATABASE_URL, or set TOLLBOOTH_SECRET",
        ) from error


def _development_secret_path(database_url: str) -> Path | None:
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite":
        return Path(".tollbooth.secret")
    if url.database in (None, "", ":memory:"):
        return None
    database = Path(str(url.database))
    return database.with_name(database.name + ".secret")


def _read_or_create(path: Path) -> bytes:
    # Several workers may come here at once: each writes a file of its own, and one of them wins the name.
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
    secret = path.read_text().strip().encode()
    if len(secret) < MIN_SECRET_LENGTH:
        raise ConfigurationError(
            "unusable_secret_file", f"{path} does not hold a secret; delete it to have a new one made"
        )
    return secret
