from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger.naming import Names, names_of
from fastapi_tollbooth.ledger.operations import (
    Authorize,
    BeginSettlement,
    Capture,
    Claim,
    CompleteSettlement,
    EndClaim,
    Fund,
    Operation,
    Reconcile,
    Refund,
    Revoke,
    Void,
)
from fastapi_tollbooth.ledger.records import Cap, Payment, PaymentState

DOLLAR = Money(1_000_000, Asset.USD)
PAYMENT = Payment("x402", "x402:1", 1_000_000, Asset.USD, "x402:payer")


def named(*operations: Operation) -> Names:
    return names_of(operations)


def test_what_a_batch_has_to_load() -> None:
    opened = named(Authorize(7, DOLLAR, "/"), Authorize("l402:aa", DOLLAR, "/"), Revoke("l402:bb"))
    assert opened == Names(ids={7}, keys={"l402:aa", "l402:bb"})
    for resolution in (Capture(1, 2), Void(1, 2)):
        assert named(resolution) == Names(ids={1}, resolving={2})
    for correction in (Refund(1, 2), Reconcile(1, 2, 3)):
        assert named(correction) == Names(ids={1}, tolls={2})
    for funding in (Fund("a", DOLLAR, PAYMENT), Claim(PAYMENT, "a", DOLLAR, "/")):
        assert named(funding) == Names(keys={"a", "source:x402:USD"}, spend_keys={"x402:1"})
    for about_a_payment in (
        BeginSettlement("x402:1", 2),
        CompleteSettlement("x402:1"),
        EndClaim("x402:1", 2, PaymentState.FAILED),
    ):
        assert named(about_a_payment) == Names(spend_keys={"x402:1"})
    cap = Cap("narrowed", DOLLAR)
    assert named(Authorize(1, DOLLAR, "/", (cap,)), Void(1, 2)).caps == {"narrowed"}
