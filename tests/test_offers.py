"""What is asked for, in both versions of the protocol, and which offer a payment takes."""

from typing import Any

import pytest

from fastapi_tollbooth.errors import CredentialRefused
from fastapi_tollbooth.rails.x402.networks import Token, find_network
from fastapi_tollbooth.rails.x402.offers import Offer, chosen
from fastapi_tollbooth.rails.x402.payments import Asked
from fastapi_tollbooth.rails.x402.wire import Envelope
from tests.x402_payer import PAY_TO

BASE = Offer(Asked(find_network("base"), 10_000, PAY_TO), 300)
PERMIT2 = Offer(Asked(find_network("eip155:7", Token("0x" + "34" * 20, 18, "M", "1", "permit2")), 5, PAY_TO), 60)
SOLANA = Offer(Asked(find_network("solana"), 10_000, "1" * 32), 300, fee_payer="2" * 32)


def envelope(network: str, asset: str | None = None, scheme: str = "exact") -> Envelope:
    return Envelope(2, scheme, network, {}, {}, b"", asset)


def test_version_2_asks_in_atomic_units_by_caip_2() -> None:
    assert BASE.v2() == {
        "scheme": "exact",
        "network": "eip155:8453",
        "amount": "10000",
        "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
        "payTo": PAY_TO,
        "maxTimeoutSeconds": 300,
        "extra": {"name": "USD Coin", "version": "2"},
    }


def test_version_1_asks_the_same_by_familiar_name() -> None:
    asked = BASE.v1("https://api.example.com/weather", "the weather")
    assert asked["network"] == "base"
    assert asked["maxAmountRequired"] == "10000"
    assert asked["resource"] == "https://api.example.com/weather"


def test_what_a_client_needs_besides_is_in_extra() -> None:
    assert PERMIT2.extra == {"name": "M", "version": "1", "assetTransferMethod": "permit2"}
    assert SOLANA.extra == {"feePayer": "2" * 32}
    assert Offer(BASE.asked, 300, "before").extra["paymentFlow"] == "upfront"


@pytest.mark.parametrize(
    ("sent", "offer"),
    [
        (envelope("eip155:8453"), BASE),
        (envelope("base"), BASE),
        (envelope("eip155:8453", BASE.asked.network.token.address.lower()), BASE),
        (envelope("eip155:7", "0x" + "34" * 20), PERMIT2),
        (envelope("solana"), SOLANA),
    ],
)
def test_a_payment_takes_the_offer_that_it_names(sent: Envelope, offer: Offer) -> None:
    assert chosen(sent, [BASE, PERMIT2, SOLANA]) is offer


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (envelope("eip155:8453", scheme="upto"), "wrong_scheme"),
        (envelope("eip155:1"), "wrong_network"),
        (envelope(""), "wrong_network"),
        (envelope("eip155:8453", "0x" + "99" * 20), "wrong_asset"),
        (envelope("solana", SOLANA.asked.network.token.address.lower()), "wrong_asset"),
    ],
)
def test_a_payment_for_what_was_not_offered_is_refused(sent: Envelope, expected: str) -> None:
    with pytest.raises(CredentialRefused) as refused:
        chosen(sent, [BASE, PERMIT2, SOLANA])
    assert refused.value.reason == expected


def test_a_network_without_a_familiar_name_is_asked_for_by_id() -> None:
    asked: dict[str, Any] = PERMIT2.v1("https://x", "")
    assert asked["network"] == "eip155:7"
