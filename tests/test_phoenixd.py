"""What is particular to phoenixd; the rest is in `test_nodes`."""

import pytest

from fastapi_tollbooth import ConfigurationError
from fastapi_tollbooth.lightning import InvoiceState
from fastapi_tollbooth.lightning.phoenixd import PhoenixdNode
from fastapi_tollbooth.settings import LightningSettings
from tests.nodes import KEY, Book, serving
from tests.nodes.vendors import phoenixd


def test_it_needs_its_password() -> None:
    with pytest.raises(ConfigurationError, match="http-password-limited-access"):
        PhoenixdNode(LightningSettings())


@pytest.mark.anyio
async def test_the_preimage_that_it_tells_of_an_unpaid_invoice_settles_nothing() -> None:
    book = Book()
    with serving(phoenixd(book), book) as port:
        node = PhoenixdNode(LightningSettings(url=f"http://127.0.0.1:{port}", api_key=KEY))
        unpaid = await node.create_invoice(21_000, "x", 600, "order-7")
        told = (await node._client.get(f"/payments/incoming/{unpaid.payment_hash.hex()}")).document
        assert told["preimage"] == book.invoices[unpaid.payment_hash].preimage.hex()
        assert told["externalId"] == "order-7"
        assert (await node.lookup(unpaid.payment_hash)).state is InvoiceState.PENDING
        await node.aclose()
