import pytest

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger.operations import (
    Authorized,
    Claimed,
    EndClaim,
    Moved,
    Operation,
    Outcome,
    Reason,
    Refused,
    Resolved,
    Void,
    undo,
)
from fastapi_tollbooth.ledger.records import PaymentState

LEFT = Money(5, Asset.USD)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Authorized(7, 1, LEFT), Void(1, 7)),
        (Claimed(7, 1, settled=True, spend_key="x402:1"), Void(1, 7)),
        (Claimed(7, 1, settled=False, spend_key="x402:1"), EndClaim("x402:1", 7, PaymentState.RELEASED)),
        (Resolved("post"), None),
        (Moved(PaymentState.SETTLED), None),
        (Refused(Reason.INSUFFICIENT, LEFT), None),
    ],
)
def test_what_takes_a_promise_back(outcome: Outcome, expected: Operation | None) -> None:
    assert undo(outcome) == expected
