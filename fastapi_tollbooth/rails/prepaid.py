"""Prepaid credit without Lightning: credentials that were sold for stablecoins are spent, and no invoice is offered."""

from typing import Any

from fastapi_tollbooth.errors import RailUnavailable
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.lightning import Capabilities, InvoiceStatus, LightningUnavailable, UncheckedInvoice
from fastapi_tollbooth.money import Money
from fastapi_tollbooth.rails import Challenge
from fastapi_tollbooth.rails.l402 import L402Rail
from fastapi_tollbooth.rails.l402_credential import L402Credential
from fastapi_tollbooth.rails.owner_caveats import OwnerCaveats
from fastapi_tollbooth.rates import RateSource
from fastapi_tollbooth.settings import TollboothSettings
from fastapi_tollbooth.toll import Quote


class _NoNode:
    """What stands where there is no Lightning node."""

    capabilities = Capabilities()

    async def create_invoice(
        self, amount_msat: int, description: str, expiry_seconds: int, external_id: str | None = None
    ) -> UncheckedInvoice:
        """Nobody makes one."""
        raise LightningUnavailable("there is no Lightning node")

    async def lookup(self, payment_hash: bytes) -> InvoiceStatus:
        """Nobody knows."""
        raise LightningUnavailable("there is no Lightning node")

    async def aclose(self) -> None:
        """Nobody is asked."""


class PrepaidRail(L402Rail):
    """Credentials like those of `L402Rail`, for credit that was paid some other way."""

    def __init__(
        self,
        settings: TollboothSettings,
        keys: KeyRing,
        ledger: Ledger,
        rates: RateSource,
        caveats: OwnerCaveats | None = None,
    ) -> None:
        super().__init__(settings, keys, ledger, _NoNode(), rates, caveats)

    async def challenge(self, quote: Quote, presented: L402Credential | None) -> Challenge:
        """There is nothing to offer here: credit is sold at ``POST /tollbooth/credits``."""
        raise RailUnavailable("credit is sold elsewhere")

    def takes(self, price: Money) -> bool:
        """Nothing can be paid here that could not be paid elsewhere before."""
        return False

    def offer(self, price: Money | None) -> dict[str, Any]:
        """Where credit is sold."""
        return {"intent": "credit", "method": self.name, "purchase": "/tollbooth/credits"}
