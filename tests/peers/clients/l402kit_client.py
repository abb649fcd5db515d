"""pip ``l402kit``: reads the invoice from the body of the 402; wallets are subclasses of its ``L402Wallet``."""

from typing import Any

from l402kit import L402Client  # type: ignore[import-not-found]
from l402kit.client import L402Wallet  # type: ignore[import-not-found]

from tests.peers.clients.driver import pay, play


class DevWallet(L402Wallet):  # type: ignore[misc]
    """Pays at the development node."""

    def pay_invoice(self, bolt11: str) -> str:
        """The preimage, as ``L402Wallet`` wants it."""
        return pay(bolt11)["preimage"]


client = L402Client(wallet=DevWallet())


def call(method: str, url: str, body: Any) -> tuple[int, Any]:
    """One request."""
    response = client.get(url) if method == "GET" else client.post(url, json=body)
    return response.status_code, response.json()


play(call)
