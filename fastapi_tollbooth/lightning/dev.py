"""The development Lightning node: real signed regtest invoices that can be paid by asking.

All workers of a service are the same node. What an invoice's preimage is follows from the key ring and the invoice
itself; which invoices were paid is kept in the ledger's database. It does not exist in production.
"""

import asyncio
import hashlib
import hmac
import mmap
import os
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, insert, select

from fastapi_tollbooth.bounded import Bounded
from fastapi_tollbooth.errors import ConfigurationError, TollboothError
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.tables import metadata
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.lightning import (
    Capabilities,
    InvoiceState,
    InvoiceStatus,
    UncheckedInvoice,
    bolt11,
    secp256k1,
)

_PAID = metadata.tables["tollbooth_dev_invoice"]
_NETWORK = "bcrt"
_MARK_BYTES = 8


class CannotPay(TollboothError):
    """The invoice is not one of this node, has expired or is paid already."""


@dataclass(frozen=True, slots=True)
class PaidInvoice:
    """Proof of payment, as a wallet gets it."""

    payment_hash: str
    preimage: str = field(repr=False)


class SharedMark:
    """Eight bytes that all workers on a machine see, changed whenever one of them was paid.

    An unpaid invoice is looked at for every 402 that offers it again; reading shared memory is a thousand times cheaper
    than asking the database whether another worker was paid meanwhile. Without a file there is no mark to go by.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._memory: mmap.mmap | None = None

    def read(self) -> bytes | None:
        """The mark as it is now; None when there is none."""
        if self._memory is None:
            if self._path is None:
                return None
            self._memory = self._map(self._path)
        return self._memory[:_MARK_BYTES]

    def change(self) -> None:
        """Make the mark different from all that anybody has seen."""
        if self.read() is not None and self._memory is not None:
            self._memory[:_MARK_BYTES] = secrets.token_bytes(_MARK_BYTES)

    def _map(self, path: Path) -> mmap.mmap:
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END) < _MARK_BYTES:
                file.truncate(_MARK_BYTES)
            return mmap.mmap(file.fileno(), _MARK_BYTES)


class DevNode:
    """A Lightning node for development and tests.

    Raises:
        ConfigurationError: the environment is production.
    """

    capabilities = Capabilities(granularity_msat=1, recheck_seconds=0.0)

    def __init__(self, keys: KeyRing, ledger: Ledger, environment: str, mark: Path | None = None) -> None:
        if environment == "production":
            raise ConfigurationError(
                "development_node",
                "the development Lightning node hands out preimages to anybody who asks, so it does not run with "
                "TOLLBOOTH_ENVIRONMENT=production: configure a real node",
            )
        self._ledger = ledger
        self._mark = SharedMark(mark)
        self._unpaid: Bounded[bytes, bytes] = Bounded(1_000)
        self._preimage_key = _derived(keys, b"dev-node preimages")
        self._private_key = int.from_bytes(_derived(keys, b"dev-node identity"), "big") % (secp256k1.N - 1) + 1

    async def create_invoice(
        self, amount_msat: int, description: str, expiry_seconds: int, external_id: str | None = None
    ) -> UncheckedInvoice:
        """Make and sign an invoice; nothing is stored."""
        payment_secret = secrets.token_bytes(32)
        created_at = int(time.time())
        payment_hash = hashlib.sha256(self._preimage(payment_secret, amount_msat)).digest()
        # Signing takes about a millisecond of pure Python, which other requests need not wait for.
        text = await asyncio.to_thread(
            bolt11.encode,
            network=_NETWORK,
            amount_msat=amount_msat,
            payment_hash=payment_hash,
            payment_secret=payment_secret,
            description=description,
            created_at=created_at,
            expiry_seconds=expiry_seconds,
            private_key=self._private_key,
        )
        return UncheckedInvoice(payment_hash, text)

    async def lookup(self, payment_hash: bytes) -> InvoiceStatus:
        """Say whether the invoice was paid, by whichever worker."""
        mark = self._mark.read()
        if mark is not None and self._unpaid.get(payment_hash) == mark:
            return InvoiceStatus(InvoiceState.PENDING)
        statement = select(_PAID.c.amount_msat, _PAID.c.paid_at).where(_PAID.c.payment_hash == payment_hash.hex())
        row = await self._ledger.read(lambda connection: connection.execute(statement).first())
        if row is None:
            if mark is not None:
                self._unpaid.put(payment_hash, mark)
            return InvoiceStatus(InvoiceState.PENDING)
        return InvoiceStatus(InvoiceState.SETTLED, row.amount_msat, row.paid_at)

    async def pay(self, invoice: str) -> PaidInvoice:
        """Pay one of this node's own invoices, as a wallet would, once.

        Raises:
            CannotPay: not an invoice of this node, expired, or paid already.
        """
        try:
            decoded = bolt11.decode(invoice)
        except bolt11.InvalidInvoice as error:
            raise CannotPay(str(error)) from error
        preimage = self._preimage(decoded.payment_secret or b"", decoded.amount_msat or 0)
        if hashlib.sha256(preimage).digest() != decoded.payment_hash:
            raise CannotPay("this invoice was not made by this development node")
        if decoded.expires_at <= datetime.now(UTC):
            raise CannotPay("this invoice has expired: ask for a new one")
        payment_hash, amount_msat = decoded.payment_hash.hex(), decoded.amount_msat

        def settle(connection: Connection) -> bool:
            if connection.execute(select(_PAID.c.payment_hash).where(_PAID.c.payment_hash == payment_hash)).first():
                return False
            row = {"payment_hash": payment_hash, "amount_msat": amount_msat, "paid_at": datetime.now(UTC)}
            connection.execute(insert(_PAID), row)
            return True

        if not await self._ledger.execute(settle):
            raise CannotPay("this invoice is paid already")
        self._mark.change()
        return PaidInvoice(payment_hash, preimage.hex())

    async def aclose(self) -> None:
        """The ledger that it keeps its invoices in is closed by whoever opened it."""

    def _preimage(self, payment_secret: bytes, amount_msat: int) -> bytes:
        # Bound to the amount: an invoice that was altered to a smaller one has another preimage, so nobody can pay it.
        return hmac.digest(self._preimage_key, payment_secret + amount_msat.to_bytes(8, "big"), hashlib.sha256)


def _derived(keys: KeyRing, purpose: bytes) -> bytes:
    key = keys.derive(keys.newest, purpose)
    if key is None:
        raise ConfigurationError("no_secret", "the development node makes its keys of TOLLBOOTH_SECRET: set it")
    return key
