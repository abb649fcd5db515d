"""LNbits over its HTTP interface: https://demo.lnbits.com/docs, tag Payments. Whole satoshis only.

LNbits tells preimages of unpaid invoices to whoever has the key, and those of paid ones to everybody who knows the
payment hash. A preimage proves nothing here; only ``paid`` says that money has come.
"""

from datetime import UTC, datetime
from typing import Any

from fastapi_tollbooth.lightning import Capabilities, InvoiceState, InvoiceStatus, UncheckedInvoice
from fastapi_tollbooth.lightning.rest import NodeClient, bytes32, reading, required_key, whole
from fastapi_tollbooth.money import MSAT_PER_SAT
from fastapi_tollbooth.settings import LightningSettings

_NAME = "LNbits"


class LnbitsNode:
    """A wallet of an LNbits. Its invoice key is enough. Implements `LightningBackend`."""

    capabilities = Capabilities()

    def __init__(self, settings: LightningSettings) -> None:
        key = required_key(settings, "the invoice key of the wallet, under its API docs")
        self._client = NodeClient(_NAME, settings, default_url="http://127.0.0.1:5000", headers={"X-Api-Key": key})

    async def create_invoice(
        self, amount_msat: int, description: str, expiry_seconds: int, external_id: str | None = None
    ) -> UncheckedInvoice:
        """``POST /api/v1/payments``."""
        request: dict[str, Any] = {
            "out": False,
            "amount": amount_msat // MSAT_PER_SAT,
            "unit": "sat",
            "memo": description,
            "expiry": expiry_seconds,
        }
        if external_id:
            request["external_id"] = external_id
        answer = await self._client.post("/api/v1/payments", json=request)
        with reading(_NAME):
            document = answer.document
            # Called payment_request before version 1.
            text = document.get("bolt11") or document["payment_request"]
            return UncheckedInvoice(bytes32(document["payment_hash"]), str(text))

    async def lookup(self, payment_hash: bytes) -> InvoiceStatus:
        """``GET /api/v1/payments/{hash}``."""
        answer = await self._client.get(f"/api/v1/payments/{payment_hash.hex()}", expect=(404,))
        if answer.status == 404:
            return InvoiceStatus(InvoiceState.UNKNOWN)
        with reading(_NAME):
            return _status(answer.document)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _status(answer: Any) -> InvoiceStatus:
    # Without the wallet's key LNbits answers too, perhaps of another wallet's payment; with it there are details.
    details = answer["details"]
    if answer["paid"] is True:
        return InvoiceStatus(InvoiceState.SETTLED, whole(details["amount"]), _time(details.get("updated_at")))
    expiry = _time(details.get("expiry"))
    if expiry is not None and expiry <= datetime.now(UTC):
        return InvoiceStatus(InvoiceState.EXPIRED)
    failed = answer.get("status") == "failed"
    return InvoiceStatus(InvoiceState.FAILED if failed else InvoiceState.PENDING)


def _time(value: Any) -> datetime | None:
    # Text in version 1, a number before; without a time zone where the database has none.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return datetime.fromtimestamp(value, UTC)
    if not isinstance(value, str):
        return None
    found = datetime.fromisoformat(value)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
