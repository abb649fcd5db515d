"""What is particular to LND; the rest is in `test_nodes`."""

import time
from typing import Any

import pytest

from fastapi_tollbooth import ConfigurationError
from fastapi_tollbooth.lightning import InvoiceState, LightningUnavailable
from fastapi_tollbooth.lightning.lnd import LndNode, _status, _unknown
from fastapi_tollbooth.lightning.rest import reading
from fastapi_tollbooth.settings import LightningSettings
from tests.nodes import KEY, Book, serving
from tests.nodes.vendors import lnd


@pytest.mark.parametrize("key", [None, "AgEDbG5k", "abc", "/home/lnd/invoice.macaroon"])
def test_it_needs_a_macaroon_in_hex(key: str | None) -> None:
    with pytest.raises(ConfigurationError, match="in hex"):
        LndNode(LightningSettings(api_key=key))


def answered(state: str, **changes: Any) -> Any:
    return {"state": state, "amt_paid_msat": "0", "settle_date": "0", "expiry": "600", "creation_date": "1"} | changes


def test_held_money_is_not_here_yet() -> None:
    assert _status(answered("ACCEPTED")).state is InvoiceState.PENDING


def test_it_cancels_what_expires() -> None:
    assert _status(answered("CANCELED")).state is InvoiceState.EXPIRED
    young = answered("CANCELED", creation_date=str(int(time.time())))
    assert _status(young).state is InvoiceState.FAILED


@pytest.mark.parametrize("document", [answered("PAID"), answered("SETTLED", amt_paid_msat=None), {}, None, []])
def test_a_state_that_is_not_documented_is_no_answer(document: Any) -> None:
    with pytest.raises(LightningUnavailable), reading("LND"):
        _status(document)


def test_an_error_of_another_kind_does_not_make_an_invoice_unknown() -> None:
    with pytest.raises(LightningUnavailable), reading("LND"):
        _unknown({"code": 2, "message": "wallet locked, unlock it to enable full RPC access"})


@pytest.mark.anyio
async def test_an_invoice_that_was_canceled_by_hand_has_failed() -> None:
    book = Book()
    with serving(lnd(book), book) as port:
        node = LndNode(LightningSettings(url=f"http://127.0.0.1:{port}", api_key=KEY))
        made = await node.create_invoice(1_001, "x", 600)
        book.invoices[made.payment_hash].canceled = True
        assert (await node.lookup(made.payment_hash)).state is InvoiceState.FAILED
        await node.aclose()
