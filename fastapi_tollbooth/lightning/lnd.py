"""LND over REST: https://lightning.engineering/api-docs/api/lnd/lightning/add-invoice and ``/lookup-invoice``.

64-bit numbers are text, bytes are base64 in documents and hex in the lookup's path.
"""

import base64
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.lightning import Capabilities, InvoiceState, InvoiceStatus, UncheckedInvoice
from fastapi_tollbooth.lightning.rest import NodeClient, moment, reading, required_key, whole
from fastapi_tollbooth.settings import LightningSettings

_NAME = "LND"
# Old versions answer 500 for an invoice that they do not know, with one of these sentences.
_UNKNOWN = ("unable to locate invoice", "there are no existing invoices")


class LndNode:
    """An LND. A macaroon for invoices only is enough: ``invoice.macaroon``. Implements `LightningBackend`."""

    capabilities = Capabilities(granularity_msat=1)

    def __init__(self, settings: LightningSettings) -> None:
        macaroon = required_key(settings, "LND's invoice.macaroon in hex: xxd -p -c 9999 invoice.macaroon")
        if not re.fullmatch("(?:[0-9a-fA-F]{2})+", macaroon):
            raise ConfigurationError("node_key", "TOLLBOOTH_LIGHTNING__API_KEY must be LND's invoice.macaroon in hex")
        headers = {"Grpc-Metadata-Macaroon": macaroon}
        self._client = NodeClient(_NAME, settings, default_url="https://127.0.0.1:8080", headers=headers)

    async def create_invoice(
        self, amount_msat: int, description: str, expiry_seconds: int, external_id: str | None = None
    ) -> UncheckedInvoice:
        """``POST /v1/invoices``, with hints to private channels. LND keeps no external id."""
        request = {
            "value_msat": str(amount_msat),
            "memo": description,
            "expiry": str(expiry_seconds),
            "private": True,
        }
        answer = await self._client.post("/v1/invoices", json=request)
        with reading(_NAME):
            payment_hash = base64.b64decode(answer.document["r_hash"], validate=True)
            return UncheckedInvoice(payment_hash, str(answer.document["payment_request"]))

    async def lookup(self, payment_hash: bytes) -> InvoiceStatus:
        """``GET /v1/invoice/{hash}``."""
        answer = await self._client.get(f"/v1/invoice/{payment_hash.hex()}", expect=(404, 500))
        with reading(_NAME):
            if answer.status >= 300:
                return _unknown(answer.document)
            return _status(answer.document)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _unknown(error: Any) -> InvoiceStatus:
    if error["code"] != 5 and not any(sentence in error["message"] for sentence in _UNKNOWN):
        raise ValueError("another error")
    return InvoiceStatus(InvoiceState.UNKNOWN)


def _status(invoice: Any) -> InvoiceStatus:
    match invoice["state"]:
        case "SETTLED":
            return InvoiceStatus(
                InvoiceState.SETTLED, whole(invoice["amt_paid_msat"]), moment(invoice.get("settle_date"))
            )
        case "OPEN" | "ACCEPTED":
            return InvoiceStatus(InvoiceState.PENDING)
        case "CANCELED":
            # LND cancels what expires.
            created = moment(invoice["creation_date"])
            lifetime = timedelta(seconds=whole(invoice["expiry"], 10**10))
            expired = created is not None and created + lifetime <= datetime.now(UTC)
            return InvoiceStatus(InvoiceState.EXPIRED if expired else InvoiceState.FAILED)
    raise ValueError("another state")
