"""A state machine for the ledger: any order of operations, checked against a model that knows nothing of the rules.

Whoever keeps the books (the pure rules, a store on a database) is a `Keeper`.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger.operations import (
    Authorize,
    Authorized,
    BeginSettlement,
    Capture,
    Claim,
    Claimed,
    CompleteSettlement,
    Corrected,
    EndClaim,
    Fund,
    Funded,
    Moved,
    Operation,
    Outcome,
    Reconcile,
    Refund,
    Refused,
    Resolved,
    Revoke,
    Void,
)
from fastapi_tollbooth.ledger.records import Cap, Payment, PaymentState

ACCOUNTS = ("a", "b", "c")
PAYERS = ("x", "y")
EXPIRED = "expired"
CAPS = (("wide", 500), ("narrow", 150))
"""Each account has these, one inside the other."""


class Keeper(Protocol):
    """Keeps the books of one run."""

    def run(self, operation: Operation) -> Outcome:
        """Apply one operation."""
        ...

    def crash(self) -> None:
        """Forget everything that is not written down."""
        ...

    def hand_over(self, reconnects: bool) -> None:
        """Let another worker go on, which remembers what it did last, but for what was true of a connection it lost."""
        ...

    def balances(self) -> dict[str, tuple[int, int]]:
        """What is written down: posted and pending of every account, by key."""
        ...

    def uses(self) -> dict[str, int]:
        """What is written down as promised and spent under every cap, by key."""
        ...

    def problem(self) -> str | None:
        """What a replay of the journal finds wrong."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


@dataclass
class ModelToll:
    """What the model knows of one toll."""

    account: str
    account_id: int
    held: int
    state: str = "open"
    posted: int = 0
    refunded: int | None = None
    adjusted: int | None = None
    caps: tuple[Cap, ...] = ()

    @property
    def earned(self) -> int:
        return self.posted + (self.adjusted or 0) - (self.refunded or 0)

    @property
    def cost(self) -> int:
        return self.held if self.state == "open" else self.earned


@dataclass
class ModelPayment:
    """What the model knows of one claimed payment."""

    payer: str
    amount: int
    state: PaymentState | None = None
    claim: int = 0
    toll: int | None = None


def usd(amount: int) -> Money:
    return Money(amount, Asset.USD)


class LedgerMachine(RuleBasedStateMachine):
    """Any order of operations keeps the promises of the ledger."""

    tolls: Bundle[int] = Bundle("tolls")
    nonces = st.integers(1, 4)

    def __init__(self) -> None:
        super().__init__()
        self.keeper = self.make_keeper()
        self.funded: dict[str, int] = {}
        self.ids: dict[str, int] = {}
        self.revoked: set[str] = set()
        self.model: dict[int, ModelToll] = {}
        self.payments: dict[int, ModelPayment] = {}
        self.spent = 0

    def make_keeper(self) -> Keeper:
        raise NotImplementedError

    def teardown(self) -> None:
        self.keeper.close()

    # ── what the model expects ────────────────────────────────────────────────────────────────────────────────────────

    def available(self, account: str) -> int:
        return self.funded.get(account, 0) - sum(t.cost for t in self.model.values() if t.account == account)

    def used(self, cap: Cap) -> int:
        return sum(toll.cost for toll in self.model.values() if cap in toll.caps)

    def spendable(self, account: str, caps: tuple[Cap, ...]) -> int:
        return min([self.available(account), *(cap.limit.amount - self.used(cap) for cap in caps)])

    # ── prepaid ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(account=st.sampled_from(ACCOUNTS), amount=st.integers(0, 1_000), again=st.booleans())
    def fund(self, account: str, amount: int, again: bool) -> None:
        self.spent += 0 if again and self.spent else 1
        payment = Payment("l402", f"p{self.spent}", amount, Asset.USD, account)
        outcome = self.keeper.run(Fund(account, usd(amount), payment))
        if isinstance(outcome, Funded) and outcome.new:
            self.funded[account] = self.funded.get(account, 0) + amount

    @rule(amount=st.integers(1, 100))
    def fund_with_an_expiry(self, amount: int) -> None:
        self.spent += 1
        payment = Payment("l402", f"p{self.spent}", amount, Asset.USD, EXPIRED)
        past = datetime.now(UTC) - timedelta(days=3650)
        outcome = self.keeper.run(Fund(EXPIRED, usd(amount), payment, past))
        assert isinstance(outcome, Funded)
        self.funded[EXPIRED] = self.funded.get(EXPIRED, 0) + amount
        assert isinstance(self.keeper.run(Authorize(EXPIRED, usd(1), "/")), Refused)

    @rule(
        target=tolls,
        account=st.sampled_from(ACCOUNTS),
        amount=st.integers(0, 400),
        capped=st.integers(0, 2),
        by_id=st.booleans(),
    )
    def authorize(self, account: str, amount: int, capped: int, by_id: bool) -> Any:
        caps = tuple(Cap(f"{name} {account}", usd(most)) for name, most in CAPS[:capped])
        possible = account in self.funded and account not in self.revoked and self.spendable(account, caps) >= amount
        named = self.ids.get(account, account) if by_id else account
        outcome = self.keeper.run(Authorize(named, usd(amount), "/", caps))
        assert isinstance(outcome, Authorized) is possible
        if not isinstance(outcome, Authorized):
            return multiple()
        self.ids[account] = outcome.account_id
        self.model[outcome.toll] = ModelToll(account, outcome.account_id, amount, caps=caps)
        assert outcome.balance.amount == self.available(account)
        return outcome.toll

    @rule(toll=tolls, part=st.none() | st.integers(0, 400), served=st.booleans())
    def capture(self, toll: int, part: int | None, served: bool) -> None:
        known = self.model[toll]
        outcome = self.keeper.run(Capture(known.account_id, toll, part, served))
        if known.state == "open" and (part is None or part <= known.held):
            known.state, known.posted = "post", known.held if part is None else part
            assert outcome == Resolved("post")
        elif served and known.state == "void" and known.adjusted is None:
            known.adjusted = 0
            used = known.held if part is None else part
            known.adjusted = min(used, known.held, self.spendable(known.account, known.caps))
            assert outcome == Resolved("void")

    @rule(toll=tolls)
    def void(self, toll: int) -> None:
        known = self.model[toll]
        outcome = self.keeper.run(Void(known.account_id, toll))
        if known.state == "open":
            known.state = "void"
            assert outcome == Resolved("void")

    @rule(toll=tolls, part=st.none() | st.integers(0, 400))
    def refund(self, toll: int, part: int | None) -> None:
        known = self.model[toll]
        outcome = self.keeper.run(Refund(known.account_id, toll, part))
        charged = known.state == "post" or known.adjusted is not None
        possible = charged and (known.refunded is not None or part is None or part <= known.earned)
        assert isinstance(outcome, Corrected) is possible
        if possible and known.refunded is None:
            known.refunded = known.earned if part is None else part

    @rule(toll=tolls, actual=st.integers(-5, 500))
    def reconcile(self, toll: int, actual: int) -> None:
        known = self.model[toll]
        before = self.spendable(known.account, known.caps)
        outcome = self.keeper.run(Reconcile(known.account_id, toll, actual))
        assert isinstance(outcome, Corrected) is (known.state == "post" or known.adjusted is not None)
        if isinstance(outcome, Corrected) and known.adjusted is None:
            assert outcome.new
            known.adjusted = outcome.earned.amount - known.earned
            assert 0 <= known.earned <= known.held
            if known.refunded is None and min(max(0, actual), known.held) - known.posted <= before:
                assert known.earned == min(max(0, actual), known.held)

    @rule(account=st.sampled_from((*ACCOUNTS, *PAYERS)), revoked=st.booleans())
    def revoke(self, account: str, revoked: bool) -> None:
        outcome = self.keeper.run(Revoke(account, revoked))
        if not isinstance(outcome, Refused):
            (self.revoked.add if revoked else self.revoked.discard)(account)

    # ── one payment for one request ───────────────────────────────────────────────────────────────────────────────────

    @rule(target=tolls, nonce=nonces, price=st.integers(1, 60), amount=st.integers(1, 50))
    def claim(self, nonce: int, price: int, amount: int) -> Any:
        payer = PAYERS[nonce % 2]
        known = self.payments.setdefault(nonce, ModelPayment(payer, amount))
        free = known.state in (None, PaymentState.RELEASED, PaymentState.FAILED)
        delivered = None if known.toll is None else self.model[known.toll].state
        owed = known.state is PaymentState.SETTLED and delivered in (None, "void")
        payment = Payment("x402", f"x402:{nonce}", amount, Asset.USD, payer)
        outcome = self.keeper.run(Claim(payment, payer, usd(price), "/x"))
        worth = amount if free else known.amount
        assert isinstance(outcome, Claimed) is ((free or owed) and price <= worth and payer not in self.revoked)
        if not isinstance(outcome, Claimed):
            return multiple()
        assert outcome.settled is owed
        known.claim = outcome.toll
        if owed:
            known.toll = outcome.toll
            self.model[outcome.toll] = ModelToll(payer, outcome.account_id, price)
            return outcome.toll
        known.state, known.amount, known.toll = PaymentState.CLAIMED, amount, None
        return multiple()

    @rule(nonce=nonces)
    def begin(self, nonce: int) -> None:
        known = self.payments.get(nonce)
        outcome = self.keeper.run(BeginSettlement(f"x402:{nonce}", known.claim if known else 0))
        if known is not None and known.state is PaymentState.CLAIMED:
            known.state = PaymentState.SETTLING
            assert outcome == Moved(PaymentState.SETTLING)

    @rule(target=tolls, nonce=nonces, charge=st.none() | st.integers(0, 60))
    def complete(self, nonce: int, charge: int | None) -> Any:
        known = self.payments.get(nonce)
        asked = None if charge is None else usd(charge)
        outcome = self.keeper.run(CompleteSettlement(f"x402:{nonce}", "0xabc", asked))
        if known is None or known.state not in (PaymentState.SETTLING, PaymentState.UNKNOWN):
            return multiple()
        assert (outcome == Moved(PaymentState.SETTLED)) is (charge is None or charge <= known.amount)
        if isinstance(outcome, Refused):
            return multiple()
        known.state = PaymentState.SETTLED
        self.funded[known.payer] = self.funded.get(known.payer, 0) + known.amount
        if charge is None:
            return multiple()
        account_id = self.id_of(known.payer)
        known.toll = known.claim
        self.model[known.claim] = ModelToll(known.payer, account_id, known.amount, "post", charge)
        return known.claim

    def id_of(self, payer: str) -> int:
        outcome = self.keeper.run(Revoke(payer, payer in self.revoked))
        assert not isinstance(outcome, Refused)
        return outcome.account_id  # type: ignore[union-attr]

    @rule(nonce=nonces, state=st.sampled_from((PaymentState.RELEASED, PaymentState.FAILED, PaymentState.UNKNOWN)))
    def end(self, nonce: int, state: Any) -> None:
        known = self.payments.get(nonce)
        outcome = self.keeper.run(EndClaim(f"x402:{nonce}", known.claim if known else 0, state))
        if known is None or isinstance(outcome, Refused):
            return
        assert known.state is state or (known.state, state) in {
            (PaymentState.CLAIMED, PaymentState.RELEASED),
            (PaymentState.SETTLING, PaymentState.FAILED),
            (PaymentState.SETTLING, PaymentState.UNKNOWN),
            (PaymentState.UNKNOWN, PaymentState.FAILED),
        }
        known.state = state

    # ── always ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule()
    def crash(self) -> None:
        """What is written down is all that is needed to go on."""
        self.keeper.crash()

    @rule(reconnects=st.booleans())
    def hand_over(self, reconnects: bool) -> None:
        """What one worker remembers does not hide what another has written."""
        self.keeper.hand_over(reconnects)

    @invariant()
    def the_books_are_right(self) -> None:
        balances = self.keeper.balances()
        assert sum(posted for posted, _ in balances.values()) == 0
        expected: dict[str, tuple[int, int]] = {}
        for account in self.funded:
            pending = sum(t.held for t in self.model.values() if t.account == account and t.state == "open")
            expected[account] = (self.available(account) + pending, pending)
        for account, (posted, pending) in expected.items():
            assert balances[account] == (posted, pending)
            assert 0 <= pending <= posted
        assert balances.get("revenue:USD", (0, 0))[0] == sum(toll.earned for toll in self.model.values())
        uses = {cap.key: (self.used(cap), cap.limit.amount) for toll in self.model.values() for cap in toll.caps}
        assert self.keeper.uses() == {key: used for key, (used, _) in uses.items()}
        assert all(used <= most for used, most in uses.values())
        assert self.keeper.problem() is None
