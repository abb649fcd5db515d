"""pip ``ln-church-agent``: verifies the invoice's signature before it pays, and pays every request anew."""

from typing import Any

from ln_church_agent import Payment402Client  # type: ignore[import-not-found]

from tests.peers.clients.driver import BASE, pay, play


class DevWallet:
    """Pays at the development node. Its ``LightningProvider`` is a protocol."""

    def pay_invoice(self, invoice: str) -> str:
        """The preimage, as ``LightningProvider`` wants it."""
        return pay(invoice)["preimage"]


client = Payment402Client(base_url=BASE, ln_adapter=DevWallet())


def call(method: str, url: str, body: Any) -> tuple[int, Any]:
    """One request. The client raises unless it is served, and hands out the body alone."""
    return 200, client.execute_detailed(method, url, body).response


play(call)
