"""A caller's side of L402 against the development node."""

from typing import Any

from fastapi.testclient import TestClient


def buy(client: TestClient, path: str, method: str = "GET", **request: Any) -> dict[str, str]:
    """Meet the 402, pay its invoice, and return the headers of the credential."""
    challenge = client.request(method, path, **request)
    assert challenge.status_code == 402, challenge.text
    return pay(client, challenge.json())


def pay(client: TestClient, offer: dict[str, Any]) -> dict[str, str]:
    """Pay the invoice of a 402's body and return the headers of the credential."""
    paid = client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]})
    assert paid.status_code == 200, paid.text
    return {"Authorization": f"L402 {offer['macaroon']}:{paid.json()['preimage']}"}
