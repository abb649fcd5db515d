"""The one way to an invoice: ask the node, and make sure of what it handed out before anybody is asked to pay it.

A node that is told half a satoshi may hand out an invoice without an amount (LNbits does), which anybody may pay with
next to nothing; a node of another network hands out invoices that cost nothing at all. Neither must ever be offered.
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from fastapi_tollbooth.lightning import Invoice, LightningBackend, LightningUnavailable, UncheckedInvoice, bolt11

logger = logging.getLogger("fastapi_tollbooth.lightning")

MAX_DESCRIPTION = 128
"""Characters: what phoenixd accepts, and, whatever they are, less than the 639 bytes of BOLT11."""


async def request_invoice(
    node: LightningBackend,
    amount_msat: int,
    description: str,
    expiry_seconds: int,
    *,
    network: str | None = None,
    external_id: str | None = None,
) -> Invoice:
    """An invoice for this amount, rounded up to what the node can ask for.

    Args:
        network: The prefix of the only acceptable network, ``bc``, ``tb``, ``tbs`` or ``bcrt``; None for any.

    Raises:
        LightningUnavailable: the node did not answer, or what it handed out is not such an invoice.
    """
    granularity = node.capabilities.granularity_msat
    asked_msat = -(-max(1, amount_msat) // granularity) * granularity
    unchecked = await node.create_invoice(asked_msat, description[:MAX_DESCRIPTION], expiry_seconds, external_id)
    try:
        # Recovering the signer is milliseconds of pure Python, which other requests need not wait for.
        return await asyncio.to_thread(_checked, unchecked, asked_msat, expiry_seconds, network)
    except bolt11.InvalidInvoice as error:
        logger.error("the Lightning node handed out an invoice that cannot be offered: %s", error)
        raise LightningUnavailable("the node handed out an invoice that cannot be offered") from None


def _checked(unchecked: UncheckedInvoice, asked_msat: int, expiry_seconds: int, network: str | None) -> Invoice:
    invoice = bolt11.decode(unchecked.bolt11)
    if invoice.payment_hash != unchecked.payment_hash:
        raise bolt11.InvalidInvoice("its payment hash is not the one that the node reports")
    if invoice.amount_msat is None:
        raise bolt11.InvalidInvoice("it leaves the amount to the payer")
    if invoice.amount_msat != asked_msat:
        raise bolt11.InvalidInvoice(f"it asks for {invoice.amount_msat} msat instead of {asked_msat}")
    if network not in (None, invoice.network):
        raise bolt11.InvalidInvoice(f"it is of the network {invoice.network!r} instead of {network!r}")
    # An offer is made again during the first half of the time that was asked for.
    if invoice.expires_at < datetime.now(UTC) + timedelta(seconds=expiry_seconds / 2):
        raise bolt11.InvalidInvoice(f"it expires already at {invoice.expires_at}: compare the clocks")
    bolt11.payee(invoice)
    return Invoice(invoice.payment_hash, unchecked.bolt11, invoice.amount_msat, invoice.expires_at)
