"""What the ledger is asked for a payment, and what callers are told when it says no."""

from datetime import UTC, datetime
from typing import Any

import pytest

from fastapi_tollbooth.errors import Conflict, CredentialRefused, Forbidden
from fastapi_tollbooth.ledger.operations import Reason, Refused
from fastapi_tollbooth.money import Asset, Money
from fastapi_tollbooth.rails.x402.accepted import accepted
from fastapi_tollbooth.rails.x402.order import Order, invalid, refusal_of, settlement_failed
from fastapi_tollbooth.rails.x402.payments import Asked, read_payment
from fastapi_tollbooth.settings import X402Settings
from tests.x402_payer import PAY_TO, PAYER, payload

PRICE = Money(10_000, Asset.USD)
PLACE = accepted(X402Settings(pay_to=PAY_TO, networks=["base"], facilitator_url="http://x"))[0]


def order(**changes: Any) -> Order:
    payment = read_payment(payload(10_000, **changes), Asked(PLACE.network, 10_000, PAY_TO))
    return Order(PLACE, payment, PRICE, PRICE, "/x", {"secret": "signature"}, "d1")


def test_each_payment_has_an_account_of_its_own() -> None:
    claim = order(validBefore="2000000000").claim()
    assert claim.account == claim.payment.spend_key
    assert claim.payment.payer == f"eip155:8453:{PAYER}"
    assert claim.payment.expires_at == datetime(2033, 5, 18, 3, 33, 20, tzinfo=UTC)
    assert order(nonce="0x" + "01" * 32).claim().account != claim.account


def test_a_payment_may_be_signed_for_ever() -> None:
    expires_at = order(validBefore=str(2**256 - 1)).claim().payment.expires_at
    assert expires_at is not None
    assert expires_at.year == 9999


def test_the_signature_is_not_shown() -> None:
    assert "signature" not in repr(order())


def test_a_facilitator_may_use_either_name_of_the_network() -> None:
    assert order().networks == ("eip155:8453", "base")


@pytest.mark.parametrize(
    ("reason", "error", "slug"),
    [
        (Reason.IN_USE, Conflict, "payment_in_use"),
        (Reason.UNSETTLED, Conflict, "payment_in_use"),
        (Reason.ALREADY_SPENT, Forbidden, "already_spent"),
        (Reason.REVOKED, Forbidden, "credential_revoked"),
        (Reason.INSUFFICIENT, CredentialRefused, "wrong_amount"),
        (Reason.TOO_LARGE, CredentialRefused, "amount_too_large"),
    ],
)
def test_what_the_ledger_refuses_has_a_name(reason: Reason, error: type[Any], slug: str) -> None:
    refusal = refusal_of(Refused(reason))
    assert isinstance(refusal, error)
    assert refusal.reason == slug


def test_the_facilitator_s_own_reason_is_passed_on() -> None:
    assert invalid("insufficient_funds").members == {"facilitatorReason": "insufficient_funds"}
    assert settlement_failed("").members == {}
