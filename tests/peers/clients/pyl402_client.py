"""pip ``pyl402``: an httpx client; says the scheme twice (``L402 L402 ...``) whenever it re-uses a credential."""

from typing import Any

from pyl402.client.l402 import L402Client  # type: ignore[import-not-found]
from pyl402.token_store import MemoryTokenStore  # type: ignore[import-not-found]
from pyl402.wallet import PaymentResult, Wallet  # type: ignore[import-not-found]

from tests.peers.clients.driver import pay, play


class DevWallet(Wallet):  # type: ignore[misc]
    """Pays at the development node."""

    def pay_invoice(self, invoice: str) -> Any:
        """The preimage, as ``Wallet`` wants it."""
        return PaymentResult(preimage=pay(invoice)["preimage"], success=True)


client = L402Client(wallet=DevWallet(), store=MemoryTokenStore())


def call(method: str, url: str, body: Any) -> tuple[int, Any]:
    """One request."""
    response = client.request(method, url, json=body)
    return response.status_code, response.json()


play(call)
