"""What is particular to Core Lightning; the rest is in `test_nodes`."""

import pytest

from fastapi_tollbooth import ConfigurationError
from fastapi_tollbooth.lightning import InvoiceState, LightningUnavailable
from fastapi_tollbooth.lightning.cln import ClnNode, _status
from fastapi_tollbooth.lightning.rest import reading
from fastapi_tollbooth.settings import LightningSettings
from tests.nodes import KEY, Book, serving
from tests.nodes.vendors import cln


def test_it_needs_a_rune() -> None:
    with pytest.raises(ConfigurationError, match="createrune"):
        ClnNode(LightningSettings())


@pytest.mark.anyio
async def test_the_label_is_the_external_id_and_used_once() -> None:
    book = Book()
    with serving(cln(book), book) as port:
        node = ClnNode(LightningSettings(url=f"http://127.0.0.1:{port}", api_key=KEY))
        made = await node.create_invoice(1_001, "x", 600, "order-7")
        assert book.invoices[made.payment_hash].external_id == "order-7"
        with pytest.raises(LightningUnavailable):
            await node.create_invoice(1_001, "x", 600, "order-7")
        labels = {(await node.create_invoice(1_000, "x", 600)).payment_hash for _ in range(3)}
        assert len(labels) == 3
        await node.aclose()


def test_an_invoice_that_has_expired_since_the_node_looked_is_expired() -> None:
    assert _status({"status": "unpaid", "expires_at": 1}).state is InvoiceState.EXPIRED


@pytest.mark.parametrize("document", [{"status": "lost"}, {"status": "paid"}, {"status": "unpaid"}])
def test_a_status_that_is_not_documented_is_no_answer(document: object) -> None:
    with pytest.raises(LightningUnavailable), reading("Core Lightning"):
        _status(document)
