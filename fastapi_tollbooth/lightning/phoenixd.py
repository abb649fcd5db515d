"""phoenixd over its HTTP interface: https://phoenix.acinq.co/server/api. Whole satoshis only.

It tells the preimage of unpaid invoices too; only ``isPaid`` says that money has come.
"""

from fastapi_tollbooth.lightning import Capabilities, InvoiceState, InvoiceStatus, UncheckedInvoice
from fastapi_tollbooth.lightning.rest import NodeClient, bytes32, moment, reading, required_key, whole
from fastapi_tollbooth.money import MSAT_PER_SAT
from fastapi_tollbooth.settings import LightningSettings

_NAME = "phoenixd"


class PhoenixdNode:
    """A phoenixd. The limited-access password is enough. Implements `LightningBackend`."""

    capabilities = Capabilities()

    def __init__(self, settings: LightningSettings) -> None:
        password = required_key(settings, "phoenixd's http-password-limited-access, from its phoenix.conf")
        self._client = NodeClient(_NAME, settings, default_url="http://127.0.0.1:9740", auth=("", password))

    async def create_invoice(
        self, amount_msat: int, description: str, expiry_seconds: int, external_id: str | None = None
    ) -> UncheckedInvoice:
        """``POST /createinvoice``, a form."""
        form = {
            "amountSat": str(amount_msat // MSAT_PER_SAT),
            "description": description,
            "expirySeconds": str(expiry_seconds),
        }
        answer = await self._client.post(
            "/createinvoice", data=form | ({"externalId": external_id} if external_id else {})
        )
        with reading(_NAME):
            return UncheckedInvoice(bytes32(answer.document["paymentHash"]), str(answer.document["serialized"]))

    async def lookup(self, payment_hash: bytes) -> InvoiceStatus:
        """``GET /payments/incoming/{paymentHash}``; ``receivedSat`` is what is left after the fees of liquidity."""
        answer = await self._client.get(f"/payments/incoming/{payment_hash.hex()}", expect=(404,))
        if answer.status == 404:
            return InvoiceStatus(InvoiceState.UNKNOWN)
        with reading(_NAME):
            payment = answer.document
            if payment["isPaid"] is True:
                received = whole(payment["receivedSat"]) * MSAT_PER_SAT
                return InvoiceStatus(
                    InvoiceState.SETTLED, received, moment(payment.get("completedAt"), per_second=1_000)
                )
            return InvoiceStatus(InvoiceState.EXPIRED if payment.get("isExpired") is True else InvoiceState.PENDING)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
