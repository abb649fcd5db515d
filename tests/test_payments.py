"""What a payer signed is compared with what was asked for, field by field."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_tollbooth.errors import CredentialRefused
from fastapi_tollbooth.rails.x402.networks import Token, find_network
from fastapi_tollbooth.rails.x402.payments import PERMIT2_PROXY, Asked, mismatch, read_payment
from tests.x402_payer import PAY_TO, PAYER, SIGNATURE, authorization, payload

BASE = find_network("base-sepolia")
ASKED = Asked(BASE, 10_000, PAY_TO)
PERMIT2 = find_network("eip155:4326", Token("0x" + "34" * 20, 18, "Mega", "1", "permit2"))
NOW = time.time()


def read(payload: dict[str, Any], asked: Asked = ASKED) -> Any:
    payment = read_payment(payload, asked)
    refusal = mismatch(payment, asked, NOW)
    if refusal is not None:
        raise refusal
    return payment


def reason(payload: dict[str, Any], asked: Asked = ASKED) -> str:
    with pytest.raises(CredentialRefused) as refused:
        read(payload, asked)
    return refused.value.reason


def permit(**changes: Any) -> dict[str, Any]:
    signed = {
        "from": PAYER,
        "permitted": {"token": "0x" + "34" * 20, "amount": "10000"},
        "spender": PERMIT2_PROXY,
        "nonce": "77",
        "deadline": str(int(NOW) + 300),
        "witness": {"to": PAY_TO, "validAfter": "0"},
    }
    return {"signature": SIGNATURE, "permit2Authorization": signed | changes}


def test_the_payment_that_was_asked_for() -> None:
    signed = payload(10_000, nonce="0x" + "AB" * 32)
    found = read(signed)
    assert found.spend_key == f"x402:eip155:84532:{BASE.token.address.lower()}:{PAYER}:0x{'ab' * 32}"
    assert (found.payer, found.nonce) == (PAYER, "0x" + "ab" * 32)


def test_upper_and_lower_case_name_the_same_payment() -> None:
    nonce = "0x" + "cd" * 32
    shouted = payload(10_000, PAY_TO.upper().replace("X", "x"), **{"from": PAYER.upper().replace("X", "x")})
    shouted["authorization"]["nonce"] = nonce.upper().replace("X", "x")
    assert read(shouted).spend_key == read(payload(10_000, nonce=nonce)).spend_key


def test_another_signature_of_the_same_authorization_is_the_same_payment() -> None:
    signed = authorization(10_000)
    keys = {
        read({"signature": signature, "authorization": signed}).spend_key for signature in (SIGNATURE, "0x" + "22" * 65)
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"value": "9999"}, "wrong_amount"),
        ({"value": "10001"}, "wrong_amount"),
        ({"to": "0x" + "66" * 20}, "wrong_recipient"),
        ({"validAfter": str(int(NOW) + 60)}, "payment_not_yet_valid"),
        ({"validBefore": str(int(NOW) + 2)}, "payment_expired"),
        ({"validBefore": "1"}, "payment_expired"),
        ({"value": 10_000}, "malformed_payment"),
        ({"value": "010000"}, "malformed_payment"),
        ({"value": "1e4"}, "malformed_payment"),
        ({"value": "+10000"}, "malformed_payment"),
        ({"value": "10000\n"}, "malformed_payment"),
        ({"value": "١٠٠٠٠"}, "malformed_payment"),
        ({"value": "-1"}, "malformed_payment"),
        ({"nonce": "0x12"}, "malformed_payment"),
        ({"nonce": None}, "malformed_payment"),
        ({"from": "vitalik.eth"}, "malformed_payment"),
        ({"from": ""}, "malformed_payment"),
    ],
)
def test_anything_else_is_refused(changes: dict[str, Any], expected: str) -> None:
    assert reason({"signature": SIGNATURE, "authorization": authorization(10_000, PAY_TO) | changes}) == expected


@pytest.mark.parametrize("signature", [None, "", "0x", "11" * 65, "0x" + "1" * 131, 5])
def test_a_signature_is_there_and_looks_like_one(signature: Any) -> None:
    assert reason(payload(10_000) | {"signature": signature}) == "malformed_payment"


def test_permit2_is_bound_as_well() -> None:
    asked = Asked(PERMIT2, 10_000, PAY_TO)
    assert read(permit(), asked).spend_key == f"x402:eip155:4326:0x{'34' * 20}:{PAYER}:permit2-77"
    assert reason(permit(spender=PAYER), asked) == "wrong_recipient"
    assert reason(permit(witness={"to": PAYER, "validAfter": "0"}), asked) == "wrong_recipient"
    assert reason(permit(permitted={"token": "0x" + "35" * 20, "amount": "10000"}), asked) == "wrong_asset"
    assert reason(permit(permitted={"token": "0x" + "34" * 20, "amount": "1"}), asked) == "wrong_amount"
    assert reason(permit(deadline="1"), asked) == "payment_expired"
    assert reason(payload(10_000), asked) == "malformed_payment"
    assert reason(permit()) == "malformed_payment"


@settings(max_examples=500)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=8) | st.sampled_from([SIGNATURE, PAYER, "1", "10000"]),
        lambda inner: st.dictionaries(
            st.sampled_from(["signature", "authorization", "from", "to", "value", "nonce", "validBefore"]), inner
        ),
        max_leaves=10,
    ).filter(lambda value: isinstance(value, dict))
)
def test_whatever_was_sent_is_read_or_refused(sent: Any) -> None:
    for asked in (ASKED, Asked(PERMIT2, 10_000, PAY_TO), Asked(find_network("solana"), 10_000, "1" * 32)):
        with pytest.raises(CredentialRefused):
            read_payment(sent, asked)
