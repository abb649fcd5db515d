"""What the service needs of a Lightning node, and what it is told."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from fastapi_tollbooth.errors import TollboothError


class LightningUnavailable(TollboothError):
    """The node did not answer, or answered nonsense."""


class InvoiceState(StrEnum):
    """What a node says of an invoice. ``UNKNOWN`` is not ``FAILED``: it may still turn out to be settled."""

    PENDING = "pending"
    SETTLED = "settled"
    EXPIRED = "expired"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a kind of node can do.

    ``granularity_msat`` is the smallest step of an invoice's amount: amounts are rounded up to a multiple of it.
    ``recheck_seconds`` is how old the last look at an unpaid invoice may be when the invoice is offered again.
    """

    granularity_msat: int = 1_000
    recheck_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class UncheckedInvoice:
    """What a node handed out for an invoice. `checking.request_invoice` makes sure of it before anybody sees it."""

    payment_hash: bytes
    bolt11: str


@dataclass(frozen=True, slots=True)
class Invoice:
    """A BOLT11 invoice that can be paid now."""

    payment_hash: bytes
    bolt11: str
    amount_msat: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class InvoiceStatus:
    """A node's answer about one invoice."""

    state: InvoiceState
    amount_received_msat: int | None = None
    settled_at: datetime | None = None


class LightningBackend(Protocol):
    """A Lightning node that receives the service's money. Opens what it needs when it is first asked."""

    capabilities: Capabilities

    async def create_invoice(
        self, amount_msat: int, description: str, expiry_seconds: int, external_id: str | None = None
    ) -> UncheckedInvoice:
        """Make an invoice for exactly this amount, a multiple of the granularity.

        Args:
            external_id: What the owner finds the invoice by in the node's own records, where the node keeps such a
                thing. Unique.

        Raises:
            LightningUnavailable: the node did not answer, or answered something else than an invoice.
        """
        ...

    async def lookup(self, payment_hash: bytes) -> InvoiceStatus:
        """Say what has become of an invoice. An invoice that the node does not know is ``UNKNOWN``.

        Raises:
            LightningUnavailable: the node did not answer.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections. A later question opens them again."""
        ...
