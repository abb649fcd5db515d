"""What can be asked of the ledger, and what it answers. Pure values; the rules are in `book.py` and `claims.py`."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple

from fastapi_tollbooth.ledger.records import Cap, Payment, PaymentState, Phase
from fastapi_tollbooth.money import Money

# ── operations ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Fund:
    """Credit an account, opened if need be, with the money of one payment. Doing it again changes nothing."""

    account: str
    credit: Money
    payment: Payment
    expires_at: datetime | None = None


class Authorize(NamedTuple):
    """Promise ``amount`` of an account, named by id or key, to the toll of one request, within all ``caps``.

    What the toll gives back later, for whatever cause, counts under none of them any more.
    """

    account: int | str
    amount: Money
    route: str
    caps: tuple[Cap, ...] = ()


class Capture(NamedTuple):
    """Post what a toll used, all of it when ``amount`` is None, and return the rest. Doing it again changes nothing.

    With ``served``, a toll that was voided meanwhile because its request seemed dead is charged after all, as far as
    the credit and its caps go: the response is on its way.
    """

    account: int
    toll: int
    amount: int | None = None
    served: bool = False


class Void(NamedTuple):
    """Return all that was promised to a toll. Doing it again, or after a capture, changes nothing."""

    account: int
    toll: int


class Refund(NamedTuple):
    """Give back what an earned toll cost, or ``amount`` of it. Once per toll; doing it again changes nothing."""

    account: int
    toll: int
    amount: int | None = None


class Reconcile(NamedTuple):
    """Correct an earned toll to what it really cost, at most what was held. Once; doing it again changes nothing."""

    account: int
    toll: int
    actual: int


class Revoke(NamedTuple):
    """Close an account to new tolls, or open it again."""

    account: str
    revoked: bool = True


class Claim(NamedTuple):
    """Take an external payment for the toll of one request, before the handler runs.

    A payment that is settled and owed, because the request that it was for did not succeed, is charged anew instead.
    """

    payment: Payment
    account: str
    price: Money
    route: str


class BeginSettlement(NamedTuple):
    """Write down that somebody outside is about to be asked for the money of a claim."""

    spend_key: str
    toll: int


class CompleteSettlement(NamedTuple):
    """The money of a claim has come: fund its account, and charge ``charge`` of it for the toll of the claim.

    Without ``charge`` nobody was served for it yet, and the payment is owed. Doing it again changes nothing.
    """

    spend_key: str
    reference: str | None = None
    charge: Money | None = None


class EndClaim(NamedTuple):
    """The money of a claim did not come, or it is unknown whether it did. Doing it again changes nothing."""

    spend_key: str
    toll: int
    state: Literal[PaymentState.RELEASED, PaymentState.FAILED, PaymentState.UNKNOWN]


Operation = (
    Fund
    | Authorize
    | Capture
    | Void
    | Refund
    | Reconcile
    | Revoke
    | Claim
    | BeginSettlement
    | CompleteSettlement
    | EndClaim
)


# ── outcomes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Funded(NamedTuple):
    """The account holds the payment's money; ``new`` says whether this operation put it there."""

    account_id: int
    balance: Money
    new: bool


class Authorized(NamedTuple):
    """The promise stands. ``balance`` is what is left to spend after it."""

    toll: int
    account_id: int
    balance: Money


class Resolved(NamedTuple):
    """The toll is resolved; ``phase`` says how, by this operation or an earlier one."""

    phase: Phase


class Corrected(NamedTuple):
    """The toll now costs ``earned``; ``new`` says whether this operation made it so."""

    earned: Money
    balance: Money
    new: bool


class Revoked(NamedTuple):
    """The account is closed to new tolls, or open."""

    account_id: int
    revoked: bool


class Claimed(NamedTuple):
    """The payment is this toll's. When it is ``settled`` already, the toll is charged to the account."""

    toll: int
    account_id: int
    settled: bool
    spend_key: str


class Moved(NamedTuple):
    """The payment is in this state, by this operation or an earlier one."""

    state: PaymentState


class Reason(StrEnum):
    """Why the ledger refuses an operation."""

    UNKNOWN_ACCOUNT = "unknown_account"
    UNKNOWN_TOLL = "unknown_toll"
    UNKNOWN_PAYMENT = "unknown_payment"
    INSUFFICIENT = "insufficient_credit"
    CAPPED = "spend_cap_reached"
    REVOKED = "revoked"
    EXPIRED = "credit_expired"
    WRONG_ASSET = "wrong_asset"
    TOO_LARGE = "amount_too_large"
    TOLL_OPEN = "toll_open"
    NOT_CHARGED = "not_charged"
    IN_USE = "payment_in_use"
    UNSETTLED = "payment_unsettled"
    ALREADY_SPENT = "already_spent"
    ALTERED = "payment_altered"
    NOT_POSSIBLE = "not_possible"


class Refused(NamedTuple):
    """Nothing changed. ``balance`` is what the account can spend, where there is one."""

    reason: Reason
    balance: Money | None = None


Outcome = Funded | Authorized | Resolved | Corrected | Revoked | Claimed | Moved | Refused


def undo(outcome: Outcome) -> Operation | None:
    """What takes a promise back that nobody waits for any more; None where nothing was promised."""
    match outcome:
        case Authorized(toll, account_id) | Claimed(toll, account_id, settled=True):
            return Void(account_id, toll)
        case Claimed(toll, spend_key=spend_key):
            return EndClaim(spend_key, toll, PaymentState.RELEASED)
    return None
