"""Payments of invoices: asked of the node, never assumed, and stored with the credit that they buy."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import select

from fastapi_tollbooth.bounded import Bounded
from fastapi_tollbooth.errors import CredentialRefused, Forbidden, Unavailable
from fastapi_tollbooth.ledger.lookups import is_paid
from fastapi_tollbooth.ledger.operations import Fund
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.tables import metadata
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.lightning import InvoiceState, InvoiceStatus, LightningUnavailable
from fastapi_tollbooth.money import MSAT_PER_SAT, Asset, Money
from fastapi_tollbooth.rails.macaroon import Identifier
from fastapi_tollbooth.rails.node_guard import GuardedNode
from fastapi_tollbooth.settings import TollboothSettings

RAIL = "l402"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0

LOOKED_AT = 10_000

_account = metadata.tables["tollbooth_account"]


class Credit(NamedTuple):
    """What the bearer of a credential has."""

    balance: Money
    expires_at: datetime | None


class Settlements:
    """What is known, and can be found out, of payments."""

    def __init__(self, settings: TollboothSettings, ledger: Ledger, node: GuardedNode) -> None:
        self._settings = settings
        self._ledger = ledger
        self._node = node
        self._looked_at: Bounded[bytes, tuple[InvoiceStatus, float]] = Bounded(LOOKED_AT)

    async def confirmed(self, payment_hash: bytes) -> InvoiceStatus:
        """The node's word that an invoice was paid. A payer is faster than the news of it, and gets a moment's grace.

        Raises:
            CredentialRefused: the node says that it was not, and no longer can be.
            Unavailable: the node does not say; the same credential works later.
        """
        deadline = time.monotonic() + self._settings.settlement_wait
        pause = _FIRST_PAUSE
        while True:
            status = await self._asked(payment_hash)
            if status is not None and status.state is InvoiceState.SETTLED:
                return status
            if status is not None and status.state in (InvoiceState.EXPIRED, InvoiceState.FAILED):
                raise CredentialRefused("invoice_not_paid", "The invoice behind this credential was never paid.")
            if time.monotonic() + pause > deadline:
                raise Unavailable(
                    "settlement_unconfirmed",
                    "The payment is not confirmed yet. Do not pay again: send the same credential in a moment.",
                )
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def looked_at(self, payment_hash: bytes) -> InvoiceStatus:
        """What the node says of an invoice to somebody who has no proof of payment; not asked again and again.

        Raises:
            Unavailable: the node does not say.
        """
        now = time.monotonic()
        known = self._looked_at.get(payment_hash)
        if known is not None and now - known[1] < self._node.recheck_seconds:
            return known[0]
        try:
            status = await self._node.recheck(payment_hash)
        except LightningUnavailable as error:
            raise Unavailable("node_unavailable", "The Lightning node does not answer. Ask again later.") from error
        self._looked_at.put(payment_hash, (status, now))
        return status

    async def _asked(self, payment_hash: bytes) -> InvoiceStatus | None:
        try:
            return await self._node.lookup(payment_hash)
        except LightningUnavailable:
            return None

    async def is_credited(self, payment_hash: bytes) -> bool:
        """Whether the ledger has this payment already, so that nobody need be asked."""
        name = spend_key(payment_hash)
        return self._ledger.exists and await self._ledger.read(lambda connection: is_paid(connection, name))

    async def credit_of(self, account: str) -> Credit:
        """What is left in an account.

        Raises:
            CredentialRefused: there is no such account.
            Forbidden: it was revoked.
        """
        columns = (_account.c.asset, _account.c.posted - _account.c.pending, _account.c.revoked, _account.c.expires_at)
        statement = select(*columns).where(_account.c.key == account, _account.c.kind == "payer")
        row = await self._ledger.read(lambda connection: connection.execute(statement).first())
        if row is None:
            raise CredentialRefused("credit_not_funded", "There is no credit behind this credential.")
        asset, available, revoked, expires_at = row
        if revoked:
            raise Forbidden("credential_revoked", "This credential was revoked by the service.")
        return Credit(Money(available, Asset(asset)), expires_at)

    def fund(self, identifier: Identifier, account: str, status: InvoiceStatus) -> Fund:
        """The ledger's operation that credits a settled payment, once and for all."""
        days = self._settings.credit_expires_days
        payment = Payment(
            rail=RAIL,
            spend_key=spend_key(identifier.payment_hash),
            # Not every node says how much it received.
            amount=status.amount_received_msat or identifier.sats * MSAT_PER_SAT,
            asset=Asset.BTC,
            payer=account,
            reference=None if status.settled_at is None else f"settled {status.settled_at.astimezone(UTC).isoformat()}",
            rate=str(identifier.rate) if identifier.rate else None,
        )
        expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
        return Fund(account, identifier.credit, payment, expires_at)


def spend_key(payment_hash: bytes) -> str:
    """The name under which a Lightning payment is credited at most once."""
    return f"{RAIL}:{payment_hash.hex()}"
