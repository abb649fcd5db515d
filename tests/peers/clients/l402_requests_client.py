"""pip ``l402-requests``: an httpx client; wallets are subclasses of its ``WalletBase``."""

from typing import Any

from l402_requests import L402Client, WalletBase  # type: ignore[import-not-found]

from tests.peers.clients.driver import pay, play


class DevWallet(WalletBase):  # type: ignore[misc]
    """Pays at the development node."""

    async def pay_invoice(self, bolt11: str) -> str:
        """The preimage, as ``WalletBase`` wants it."""
        return pay(bolt11)["preimage"]


client = L402Client(wallet=DevWallet())


def call(method: str, url: str, body: Any) -> tuple[int, Any]:
    """One request."""
    response = client.request(method, url, json=body)
    return response.status_code, response.json()


play(call)
