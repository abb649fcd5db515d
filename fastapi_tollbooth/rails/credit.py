"""Credentials for credit that was paid some other way than by a Lightning invoice. Pure.

They look and work like any L402 credential, so every L402 client can spend them: the "preimage" is a secret of the
service's own, and the macaroon says that nothing is to be asked of a Lightning node. Whoever holds one spends the
credit, so it is handed out after the money has come, and over TLS.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.money import Asset, Money
from fastapi_tollbooth.rails.caveats import write
from fastapi_tollbooth.rails.macaroon import Identifier, Kind, mint


@dataclass(frozen=True, slots=True)
class CreditCredential:
    """A credential that spends from an account. The account's key is no secret; the rest is."""

    account: str
    macaroon: str = field(repr=False)
    preimage: str = field(repr=False)
    valid_until: datetime

    @property
    def authorization(self) -> str:
        """The value of the ``Authorization`` header."""
        return f"L402 {self.macaroon}:{self.preimage}"


def mint_credit(
    keys: KeyRing,
    service: str,
    account: str,
    asset: Asset,
    valid_until: datetime,
    caveats: Mapping[str, str] | None = None,
) -> CreditCredential:
    """A credential for the account of that key, which somebody else funds. Minting it again gives the same secret.

    Args:
        keys: The key ring; the newest key signs.
        service: The service's name, from its settings.
        account: The key of an account in the ledger, such as ``"x402:..."``; without control characters.
        asset: What the account's credit is counted in.
        valid_until: When the credential ends; the credit may end earlier, by the account's own expiry.
        caveats: The owner's conditions, by name.
    """
    secret = keys.derive(keys.newest, b"credit credential" + account.encode())
    if secret is None:
        raise ValueError("the key ring is empty")
    nothing = Money(0, asset)
    identifier = Identifier.new(hashlib.sha256(secret).digest(), nothing, None, keys.newest, kind=Kind.CREDIT)
    written = write(service, int(valid_until.timestamp()), account, list((caveats or {}).items()))
    return CreditCredential(account, mint(keys, identifier, service, written), secret.hex(), valid_until)
