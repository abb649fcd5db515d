"""Invoices with the macaroons that they pay for: made as seldom as possible, and offered again while they can be paid.

Nothing is written for an offer. It lives in this process's memory; whoever pays it holds all that is needed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from fastapi_tollbooth.bounded import Bounded
from fastapi_tollbooth.bundles import Bundle
from fastapi_tollbooth.errors import RailUnavailable, TooManyChallenges
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.lightning import Invoice, InvoiceState, LightningUnavailable
from fastapi_tollbooth.money import MSAT_PER_SAT, Asset, Money, Rate, divide_up
from fastapi_tollbooth.moving_window import Key, MovingWindow
from fastapi_tollbooth.rails.caveats import write
from fastapi_tollbooth.rails.invoice_token import InvoiceClaim, write_invoice_token
from fastapi_tollbooth.rails.l402_credential import account_key
from fastapi_tollbooth.rails.macaroon import Identifier, mint
from fastapi_tollbooth.rails.node_guard import GuardedNode
from fastapi_tollbooth.rails.purchase import Purchase
from fastapi_tollbooth.settings import TollboothSettings
from fastapi_tollbooth.single_flight import SingleFlight
from fastapi_tollbooth.terms import RateLimit

OPEN_OFFERS = 10_000
_EVERYBODY: Key = ()


class Order(NamedTuple):
    """What somebody may buy. Requests with equal orders are offered the same invoice.

    Attributes:
        client: Who asks.
        credit: What the payment credits.
        bundle: The bundle that it is, if it is one.
        account: The account that it tops up; None opens one.
        owned: The owner's conditions that the macaroon gets.
    """

    client: str
    credit: Money
    bundle: Bundle | None = None
    account: str | None = None
    owned: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Offer:
    """An invoice and the macaroon that it pays for."""

    order: Order
    invoice: Invoice
    sats: int
    macaroon: str
    status_token: str
    valid_until: datetime
    fresh_until: float
    checked_at: float


class Offers:
    """The offers of one process."""

    def __init__(self, settings: TollboothSettings, keys: KeyRing, node: GuardedNode) -> None:
        self._settings = settings
        self._keys = keys
        self._node = node
        self._open: Bounded[Order, Offer] = Bounded(OPEN_OFFERS)
        self._making: SingleFlight[Order, Offer] = SingleFlight()
        self._made = MovingWindow()
        self._per_client = RateLimit.per_minute(settings.invoices_per_client)
        self._overall = RateLimit.per_minute(settings.invoices_per_minute)

    async def offer(self, order: Order, purchase: Purchase, rate: Rate | None, used: Sequence[bytes] = ()) -> Offer:
        """The open offer for an order, or else a new one. ``used`` are payment hashes not to offer again.

        Raises:
            RailUnavailable: the node did not answer, or, `TooManyChallenges`, was asked often enough for now.
        """
        offer = self._open.get(order)
        if offer is None or offer.invoice.payment_hash in used or not await self._can_be_paid(offer):
            # A crowd of requests that all need the same new offer causes one invoice.
            offer = await self._making.run(order, lambda: self._make(order, purchase, rate))
        return offer

    def forget(self, payment_hash: bytes) -> None:
        """Not to be offered again: it was paid."""
        self._open.drop(lambda offer: offer.invoice.payment_hash == payment_hash)

    async def _can_be_paid(self, offer: Offer) -> bool:
        now = time.monotonic()
        if now > offer.fresh_until:
            return False
        if now - offer.checked_at >= self._node.recheck_seconds:
            try:
                status = await self._node.recheck(offer.invoice.payment_hash)
            except LightningUnavailable:
                return False
            offer.checked_at = now
            return status.state is InvoiceState.PENDING
        return True

    async def _make(self, order: Order, purchase: Purchase, rate: Rate | None) -> Offer:
        settings = self._settings
        self._count(order.client)
        description = f"{settings.service}: {order.credit} credit"
        try:
            invoice = await self._node.create_invoice(purchase.msat, description, settings.invoice_expiry)
        except LightningUnavailable as error:
            for key in ((order.client,), _EVERYBODY):
                self._made.give_back(key)
            raise RailUnavailable("the Lightning node did not answer") from error
        exchanged = rate if order.credit.asset is not Asset.BTC or _pays_dollars(order.bundle) else None
        sats = divide_up(invoice.amount_msat, MSAT_PER_SAT)
        identifier = Identifier.new(invoice.payment_hash, order.credit, exchanged, self._keys.newest, sats=sats)
        valid_until = datetime.now(UTC) + timedelta(days=settings.credit_lifetime_days)
        caveats = write(settings.service, int(valid_until.timestamp()), order.account, order.owned)
        claim = InvoiceClaim(identifier, order.account or account_key(invoice.payment_hash), invoice.expires_at)
        now = time.monotonic()
        offer = Offer(
            order=order,
            invoice=invoice,
            sats=sats,
            macaroon=mint(self._keys, identifier, settings.service, caveats),
            status_token=write_invoice_token(self._keys, claim),
            valid_until=valid_until,
            # Offered again for the first half of its life only, so that whoever gets it has time to pay.
            fresh_until=now + settings.invoice_expiry / 2,
            checked_at=now,
        )
        self._open.put(order, offer)
        return offer

    def _count(self, client: str) -> None:
        full = self._made.look(self._per_client, (client,)) or self._made.hit(self._overall, _EVERYBODY)
        if full is not None:
            raise TooManyChallenges("enough invoices were made for now", retry_after=full.wait)
        self._made.hit(self._per_client, (client,))


def _pays_dollars(bundle: Bundle | None) -> bool:
    return bundle is not None and bundle.pay.asset is Asset.USD
