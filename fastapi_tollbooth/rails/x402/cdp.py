"""Authorization at Coinbase's facilitator: a short-lived JWT for every single call.

Source: https://docs.cdp.coinbase.com/api-reference/v2/authentication.
"""

import base64
import binascii
import secrets
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from fastapi_tollbooth.errors import ConfigurationError

HOST = "api.cdp.coinbase.com"
LIFETIME_SECONDS = 120
_ED25519_BYTES = 64
_SEED_BYTES = 32


class CdpAuthorizer:
    """Signs calls with a CDP API key: an Ed25519 one (base64) or an older elliptic-curve one (PEM).

    Raises:
        ConfigurationError: the key cannot be read, or the ``cdp`` extra is not installed.
    """

    def __init__(self, key_id: str, secret: str) -> None:
        try:
            import jwt
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
            from cryptography.hazmat.primitives.serialization import load_pem_private_key
        except ImportError as error:
            raise ConfigurationError(
                "missing_extra", "Coinbase's facilitator needs signed calls: pip install 'fastapi-tollbooth[cdp]'"
            ) from error
        self._jwt = jwt
        self._key_id = key_id
        self._key: Any
        try:
            if secret.lstrip().startswith("-----BEGIN"):
                self._key, self._algorithm = load_pem_private_key(secret.strip().encode(), None), "ES256"
            else:
                raw = base64.b64decode(secret, validate=True)
                if len(raw) != _ED25519_BYTES:
                    raise ValueError
                self._key, self._algorithm = Ed25519PrivateKey.from_private_bytes(raw[:_SEED_BYTES]), "EdDSA"
        except (ValueError, TypeError, binascii.Error):
            raise ConfigurationError(
                "cdp_key",
                "TOLLBOOTH_X402__CDP_API_KEY_SECRET is not the secret of a CDP API key: copy it whole, as it "
                "was shown when the key was made",
            ) from None

    def headers(self, method: str, url: str) -> Mapping[str, str]:
        """The headers for one call."""
        parts, now = urlsplit(url), int(time.time())
        claims = {
            "sub": self._key_id,
            "iss": "cdp",
            "nbf": now,
            "exp": now + LIFETIME_SECONDS,
            "uris": [f"{method} {parts.hostname}{parts.path}"],
        }
        protected = {"kid": self._key_id, "nonce": secrets.token_hex(16)}
        token = self._jwt.encode(claims, self._key, algorithm=self._algorithm, headers=protected)
        return {"Authorization": f"Bearer {token}"}
