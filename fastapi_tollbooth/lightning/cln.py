"""Core Lightning over clnrest: https://docs.corelightning.org/reference/invoice and ``/listinvoices``."""

import secrets
from datetime import UTC, datetime
from typing import Any

from fastapi_tollbooth.lightning import Capabilities, InvoiceState, InvoiceStatus, UncheckedInvoice
from fastapi_tollbooth.lightning.rest import NodeClient, bytes32, moment, reading, required_key, whole
from fastapi_tollbooth.settings import LightningSettings

_NAME = "Core Lightning"


class ClnNode:
    """A Core Lightning with clnrest. A rune for two methods is enough. Implements `LightningBackend`."""

    capabilities = Capabilities(granularity_msat=1)

    def __init__(self, settings: LightningSettings) -> None:
        rune = required_key(
            settings, 'a rune: lightning-cli createrune restrictions=\'[["method=invoice","method=listinvoices"]]\''
        )
        self._client = NodeClient(_NAME, settings, default_url="https://127.0.0.1:3010", headers={"Rune": rune})

    async def create_invoice(
        self, amount_msat: int, description: str, expiry_seconds: int, external_id: str | None = None
    ) -> UncheckedInvoice:
        """``POST /v1/invoice``; the external id is the label."""
        request = {
            "amount_msat": amount_msat,
            "label": external_id or f"tollbooth-{secrets.token_hex(16)}",
            "description": description,
            "expiry": expiry_seconds,
        }
        answer = await self._client.post("/v1/invoice", json=request)
        with reading(_NAME):
            return UncheckedInvoice(bytes32(answer.document["payment_hash"]), str(answer.document["bolt11"]))

    async def lookup(self, payment_hash: bytes) -> InvoiceStatus:
        """``POST /v1/listinvoices``, which changes nothing."""
        request = {"payment_hash": payment_hash.hex()}
        answer = await self._client.post("/v1/listinvoices", json=request, tries=2)
        with reading(_NAME):
            # Whoever does not understand the condition lists all invoices.
            found = [each for each in answer.document["invoices"] if bytes32(each["payment_hash"]) == payment_hash]
            return _status(found[0]) if found else InvoiceStatus(InvoiceState.UNKNOWN)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _status(invoice: Any) -> InvoiceStatus:
    match invoice["status"]:
        case "paid":
            received = whole(invoice["amount_received_msat"])
            return InvoiceStatus(InvoiceState.SETTLED, received, moment(invoice.get("paid_at")))
        case "expired":
            return InvoiceStatus(InvoiceState.EXPIRED)
        case "unpaid":
            expires_at = moment(invoice["expires_at"])
            expired = expires_at is not None and expires_at <= datetime.now(UTC)
            return InvoiceStatus(InvoiceState.EXPIRED if expired else InvoiceState.PENDING)
    raise ValueError("another status")
