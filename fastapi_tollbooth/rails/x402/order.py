"""A payment that came with a request: what it is to buy, and why it may not."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from fastapi_tollbooth.errors import Conflict, CredentialRefused, Forbidden, HeaderLines
from fastapi_tollbooth.ledger import operations as ops
from fastapi_tollbooth.ledger.records import Payment as LedgerPayment
from fastapi_tollbooth.money import Money
from fastapi_tollbooth.rails.x402.accepted import Accepted
from fastapi_tollbooth.rails.x402.identifiers import Named
from fastapi_tollbooth.rails.x402.payments import Payment
from fastapi_tollbooth.rails.x402.wire import RECEIPT_HEADERS, encode

RAIL = "x402"
LATEST = 253_402_214_399
"""The last second that a payment is held to be good for: payers may sign for longer. A day before the last one that a
timestamp can name, so that it can be told in every time zone, and something be added to it."""

BUSY = "This payment is being worked on by another request. Do not pay again: send it again in a moment."
_FORBIDDEN = {
    ops.Reason.ALREADY_SPENT: ("already_spent", "This payment was spent. If you were not served, do not pay again."),
    ops.Reason.ALTERED: ("payment_altered", "This payment was sent in another form before. Send it as it was then."),
    ops.Reason.REVOKED: ("credential_revoked", "This payment was revoked by the service."),
}
UNKNOWN = "Whether the payment arrived is not known yet. Do not pay again: send the same payment in a moment."


@dataclass(frozen=True, slots=True)
class Order:
    """A payment that came with a request, and what it is to buy.

    Attributes:
        accepted: The network that it is on.
        payment: What was signed.
        value: Its amount as money.
        price: What of it the request costs.
        route: The route template.
        body: What the facilitator is asked about.
        digest: That of all that the payer sent; what is owed is served to nobody who cannot send just that again.
        named: The request, where its payer gave it an identifier.
        buys_credit: Whether the money stays on the payment's account, instead of being earned.
    """

    accepted: Accepted
    payment: Payment
    value: Money
    price: Money
    route: str
    body: Mapping[str, Any] = field(repr=False)
    digest: str
    buys_credit: bool = False
    named: Named | None = field(default=None, repr=False)

    @property
    def networks(self) -> tuple[str, ...]:
        """The names under which a facilitator may speak of the network."""
        network = self.accepted.network
        return (network.id, *([network.name] if network.name else []))

    def claim(self) -> ops.Claim:
        """What the ledger is asked, so that nobody else can use the payment. Each payment has an account of its own."""
        payment, expires_at = self.payment, None
        if payment.valid_before is not None:
            expires_at = datetime.fromtimestamp(min(payment.valid_before, LATEST), UTC)
        claimed = LedgerPayment(
            rail=RAIL,
            spend_key=payment.spend_key,
            amount=self.value.amount,
            asset=self.value.asset,
            payer=f"{self.accepted.network.id}:{payment.payer}",
            expires_at=expires_at,
            digest=self.digest,
        )
        return ops.Claim(claimed, payment.spend_key, self.price, self.route)


class Held(NamedTuple):
    """A payment that is this request's; a ``settled`` one is charged already. ``reference`` is its transaction."""

    order: Order
    toll: int
    account_id: int
    settled: bool
    reference: str = ""


def settlement_failed(reason: str) -> CredentialRefused:
    """What a caller is told whose payment did not go through; nothing was charged."""
    return CredentialRefused(
        "settlement_failed",
        "The payment did not go through, and nothing was charged.",
        members={"settlementReason": reason} if reason else None,
    )


def refusal_of(outcome: ops.Outcome) -> Exception:
    """What a caller is told whose payment the ledger does not let them use."""
    if not isinstance(outcome, ops.Refused):
        return TypeError(f"the ledger answered a claim with {outcome!r}")
    if outcome.reason in _FORBIDDEN:
        return Forbidden(*_FORBIDDEN[outcome.reason])
    match outcome.reason:
        case ops.Reason.IN_USE | ops.Reason.UNSETTLED:
            return Conflict("payment_in_use", BUSY)
        case ops.Reason.INSUFFICIENT:
            return CredentialRefused("wrong_amount", "The payment is not the amount that this request costs.")
        case reason:
            return CredentialRefused(reason.value, "The ledger does not accept this payment.")


def invalid(reason: str) -> CredentialRefused:
    """What a caller is told whose signature, balance or allowance is not good."""
    return CredentialRefused(
        "payment_invalid",
        "The facilitator does not vouch for this payment. Nothing was charged.",
        members={"facilitatorReason": reason} if reason else None,
    )


def receipt_of(version: int, order: Order, transaction: str, reason: str = "") -> HeaderLines:
    """The header that says what became of a payment, with the ``reason`` where there is no transaction."""
    network = order.accepted.network
    document: dict[str, Any] = {
        "success": bool(transaction),
        "transaction": transaction,
        "network": (network.name or network.id) if version == 1 else network.id,
        "payer": order.payment.payer,
    }
    if not transaction:
        document["errorReason"] = reason or "settlement_failed"
    return ((RECEIPT_HEADERS[version], encode(document)),)
