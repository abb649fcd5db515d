"""What a node hands out is looked at before anybody is asked to pay it."""

import hashlib
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from fastapi_tollbooth.lightning import (
    Capabilities,
    InvoiceState,
    InvoiceStatus,
    LightningUnavailable,
    UncheckedInvoice,
    bolt11,
)
from fastapi_tollbooth.lightning.checking import request_invoice
from tests.test_bolt11 import KEY, reencode


@dataclass
class CarelessNode:
    """Hands out what the test tells it to."""

    alter: dict[str, Any] = field(default_factory=dict)
    instead: UncheckedInvoice | None = None
    capabilities: Capabilities = field(default_factory=Capabilities)
    asked: list[int] = field(default_factory=list)

    async def create_invoice(
        self, amount_msat: int, description: str, expiry_seconds: int, external_id: str | None = None
    ) -> UncheckedInvoice:
        self.asked.append(amount_msat)
        payment_hash = hashlib.sha256(secrets.token_bytes(32)).digest()
        said: dict[str, Any] = {
            "network": "bcrt",
            "amount_msat": amount_msat,
            "payment_hash": payment_hash,
            "payment_secret": b"s" * 32,
            "description": description,
            "created_at": int(time.time()),
            "expiry_seconds": expiry_seconds,
            "private_key": KEY,
        }
        return self.instead or UncheckedInvoice(payment_hash, bolt11.encode(**said | self.alter))

    async def lookup(self, payment_hash: bytes) -> InvoiceStatus:
        return InvoiceStatus(InvoiceState.UNKNOWN)

    async def aclose(self) -> None:
        pass


def amountless(text: str) -> str:
    """The same invoice without an amount. Its signature is somebody's, as any is."""
    human, words = bolt11._bech32_decode(text)
    assert human.startswith("lnbcrt")
    return reencode("lnbcrt", words)


@pytest.mark.anyio
async def test_what_is_right_is_offered() -> None:
    invoice = await request_invoice(CarelessNode(), 21_000, "x", 600, network="bcrt")
    assert (invoice.amount_msat, bolt11.decode(invoice.bolt11).amount_msat) == (21_000, 21_000)


@pytest.mark.anyio
@pytest.mark.parametrize(("asked", "granularity", "expected"), [(1, 1_000, 1_000), (1_001, 1_000, 2_000), (5, 1, 5)])
async def test_amounts_are_rounded_up(asked: int, granularity: int, expected: int) -> None:
    node = CarelessNode(capabilities=Capabilities(granularity))
    assert (await request_invoice(node, asked, "x", 600)).amount_msat == expected
    assert node.asked == [expected]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("alteration", "complaint"),
    [
        ({"amount_msat": 20_999}, "20999 msat instead of 21000"),
        ({"payment_hash": b"h" * 32}, "payment hash"),
        ({"network": "tb"}, "network 'tb' instead of 'bcrt'"),
        ({"expiry_seconds": 10}, "expires already"),
        ({"created_at": 1_500_000_000}, "expires already"),
    ],
)
async def test_what_is_not_right_is_never_offered_and_the_owner_is_told(
    alteration: dict[str, Any], complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(LightningUnavailable):
        await request_invoice(CarelessNode(alteration), 21_000, "x", 600, network="bcrt")
    assert complaint in caplog.text


@pytest.mark.anyio
async def test_an_invoice_without_an_amount_is_never_offered(caplog: pytest.LogCaptureFixture) -> None:
    given = await CarelessNode().create_invoice(21_000, "x", 600)
    node = CarelessNode(instead=UncheckedInvoice(given.payment_hash, amountless(given.bolt11)))
    with pytest.raises(LightningUnavailable):
        await request_invoice(node, 21_000, "x", 600)
    assert "leaves the amount to the payer" in caplog.text


@pytest.mark.anyio
async def test_an_invoice_whose_signature_is_nobody_s_is_never_offered(caplog: pytest.LogCaptureFixture) -> None:
    given = await CarelessNode().create_invoice(21_000, "x", 600)
    human, words = bolt11._bech32_decode(given.bolt11)
    unsigned = reencode(human, [*words[:-104], *[0] * 104])
    node = CarelessNode(instead=UncheckedInvoice(given.payment_hash, unsigned))
    with pytest.raises(LightningUnavailable):
        await request_invoice(node, 21_000, "x", 600)
    assert "signature is nobody" in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["", "lnbcrt1", "null", "lnbc" * 3_000])
async def test_what_is_no_invoice_is_never_offered(text: str) -> None:
    with pytest.raises(LightningUnavailable):
        await request_invoice(CarelessNode(instead=UncheckedInvoice(b"h" * 32, text)), 21_000, "x", 600)
