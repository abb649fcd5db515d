"""Trust in a node that made its own certificate: by the certificate's file, or by its SHA-256 fingerprint."""

import hashlib
import hmac
import ssl
from pathlib import Path

from fastapi_tollbooth.errors import ConfigurationError


def tls_context(certificate: Path | None, pin: bytes | None) -> ssl.SSLContext:
    """What a connection to a node has to satisfy before anything is sent.

    Args:
        certificate: A PEM file with the node's certificate, or that of its own authority. The host name must match.
        pin: The SHA-256 fingerprint of exactly the node's certificate. The host name need not match.

    Raises:
        ConfigurationError: the file cannot be read, or holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=certificate)
    except OSError as error:
        raise ConfigurationError(
            "node_certificate",
            f"TOLLBOOTH_LIGHTNING__TLS_CERT: {certificate} cannot be read, or holds no certificate: name a PEM "
            f"file ({error})",
        ) from error
    if pin is not None:
        if certificate is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.sslobject_class = _pinned(pin)
    return context


def _pinned(pin: bytes) -> type[ssl.SSLObject]:
    class Pinned(ssl.SSLObject):
        """A connection that breaks off unless the other side has the one right certificate."""

        def do_handshake(self) -> None:
            """Shake hands, and look whose hand it was."""
            super().do_handshake()
            presented = hashlib.sha256(self.getpeercert(binary_form=True) or b"").digest()
            if not hmac.compare_digest(presented, pin):
                raise ssl.SSLCertVerificationError("the certificate is not the one that is pinned")

    return Pinned
