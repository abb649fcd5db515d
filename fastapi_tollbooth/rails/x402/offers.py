"""What is asked for: the ways to pay one quote, and which of them a payment takes. Pure."""

from dataclasses import dataclass
from typing import Any

from fastapi_tollbooth.errors import CredentialRefused
from fastapi_tollbooth.rails.x402.networks import Network
from fastapi_tollbooth.rails.x402.payments import Asked
from fastapi_tollbooth.rails.x402.wire import Envelope
from fastapi_tollbooth.terms import Settle

SCHEME = "exact"


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to pay: ``asked`` for an amount, within ``max_timeout`` seconds.

    ``fee_payer`` is the facilitator's account that pays Solana's fees; None on other chains. ``quote`` is our signature
    of the price, which payers of version 2 send back.
    """

    asked: Asked
    max_timeout: int
    flow: Settle = "after"
    fee_payer: str | None = None
    quote: str | None = None

    @property
    def extra(self) -> dict[str, Any]:
        """What a client needs besides the amount to sign."""
        network = self.asked.network
        extra: dict[str, Any] = {}
        if network.is_evm:
            extra |= {"name": network.token.name, "version": network.token.version}
            if network.token.method != "eip3009":
                extra["assetTransferMethod"] = network.token.method
        elif self.fee_payer is not None:
            extra["feePayer"] = self.fee_payer
        if self.flow == "before":
            extra["paymentFlow"] = "upfront"
        return extra

    def v2(self) -> dict[str, Any]:
        """The entry in ``accepts`` of version 2."""
        return {
            "scheme": SCHEME,
            "network": self.asked.network.id,
            "amount": str(self.asked.amount),
            "asset": self.asked.network.token.address,
            "payTo": self.asked.pay_to,
            "maxTimeoutSeconds": self.max_timeout,
            "extra": self.extra if self.quote is None else self.extra | {"quote": self.quote},
        }

    def v1(self, url: str, description: str) -> dict[str, Any]:
        """The entry in ``accepts`` of version 1, for a network that has a name there."""
        return {
            "scheme": SCHEME,
            "network": self.asked.network.name or self.asked.network.id,
            "maxAmountRequired": str(self.asked.amount),
            "resource": url,
            "description": description,
            "mimeType": "",
            "payTo": self.asked.pay_to,
            "maxTimeoutSeconds": self.max_timeout,
            "asset": self.asked.network.token.address,
            "extra": self.extra,
        }


def chosen(envelope: Envelope, offers: list[Offer]) -> Offer:
    """The offer that a payment takes, by what its sender says; what was signed is compared with it afterwards.

    Raises:
        CredentialRefused: it is for a scheme, network or token that was not offered.
    """
    if envelope.scheme != SCHEME:
        raise CredentialRefused("wrong_scheme", f"The payment is of another scheme than {SCHEME!r}.")
    names = [offer for offer in offers if envelope.network in (offer.asked.network.id, offer.asked.network.name)]
    if not names:
        raise CredentialRefused("wrong_network", "The payment is on a network that was not offered.")
    found = [offer for offer in names if envelope.asset is None or _same(offer.asked.network, envelope.asset)]
    if not found:
        raise CredentialRefused("wrong_asset", "The payment is in another token than the one asked for.")
    return found[0]


def _same(network: Network, asset: str) -> bool:
    return asset.lower() == network.token.address.lower() if network.is_evm else asset == network.token.address
