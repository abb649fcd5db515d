"""Several workers do everything at once to the same few accounts, payments and tolls: nobody waits in a circle."""

import random
import threading
from collections import Counter

import pytest

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.ledger.operations import (
    Authorize,
    Authorized,
    BeginSettlement,
    Capture,
    Claim,
    Claimed,
    CompleteSettlement,
    EndClaim,
    Fund,
    Operation,
    Outcome,
    Reconcile,
    Refund,
    Refused,
    Revoke,
    Void,
)
from fastapi_tollbooth.ledger.records import Payment, PaymentState
from fastapi_tollbooth.ledger.store import Store

WORKERS = 4
BATCHES = 60
ACCOUNTS = [f"account-{number}" for number in range(6)]
PAYMENTS = [f"payment-{number}" for number in range(40)]


class Crowd:
    """What the workers share: the tolls and claims that one of them got and any of them may go on with."""

    def __init__(self, url: str, seed: int) -> None:
        self._url, self._seed = url, seed
        self.tolls: list[Authorized] = []
        self.claims: list[tuple[str, Claimed]] = []
        self.outcomes: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        self._together = threading.Barrier(WORKERS)

    def run(self) -> None:
        """Have all workers work at once."""
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)

    def _work(self, number: int) -> None:
        chance, store = random.Random(self._seed * 100 + number), Store(self._url)
        try:
            self._together.wait(30)
            for _ in range(BATCHES):
                groups = [[self._operation(chance)] for _ in range(chance.randint(1, 25))]
                for group, outcomes in zip(groups, store.transact(groups), strict=True):
                    self._note(group[0], outcomes[0])
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            self.failures.append(error)
        finally:
            store.close()

    def _operation(self, chance: random.Random) -> Operation:
        account, key = chance.choice(ACCOUNTS), chance.choice(PAYMENTS)
        amount = Money(chance.randint(1, 50), Asset.USD)
        toll = chance.choice(self.tolls) if self.tolls else Authorized(1, 1, amount)
        claimed, claim = chance.choice(self.claims) if self.claims else (key, Claimed(1, 1, False, key))
        payment = Payment("x402", key, 50, Asset.USD, account)
        possible: list[Operation] = [
            Fund(account, amount, Payment("l402", f"{account}-{key}", 1, Asset.BTC, account)),
            Authorize(account, amount, "/"),
            Authorize(account, amount, "/"),
            Capture(toll.account_id, toll.toll, chance.choice([None, 0, 1])),
            Void(toll.account_id, toll.toll),
            Refund(toll.account_id, toll.toll),
            Reconcile(toll.account_id, toll.toll, 1),
            Revoke(account, chance.random() < 0.2),
            Claim(payment, f"x402:{key}", Money(50, Asset.USD), "/"),
            BeginSettlement(claimed, claim.toll),
            CompleteSettlement(claimed, "reference", Money(50, Asset.USD)),
            EndClaim(claimed, claim.toll, chance.choice([PaymentState.RELEASED, PaymentState.FAILED])),
        ]
        return chance.choice(possible)

    def _note(self, operation: Operation, outcome: Outcome) -> None:
        refused = isinstance(outcome, Refused)
        self.outcomes[f"{type(operation).__name__}{' refused' if refused else ''}"] += 1
        if isinstance(outcome, Authorized):
            self.tolls.append(outcome)
        if isinstance(outcome, Claimed) and isinstance(operation, Claim):
            self.claims.append((operation.payment.spend_key, outcome))


@pytest.mark.parametrize("seed", [1, 2])
def test_everything_at_once(url: str, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    Store(url).close()
    crowd = Crowd(url, seed)
    crowd.run()
    assert crowd.failures == []
    assert caplog.messages == []
    store = Store(url)
    assert store.read(verify).discrepancy is None
    store.close()
    done = {name for name in crowd.outcomes if "refused" not in name}
    assert done >= {"Fund", "Authorize", "Capture", "Void", "Refund", "Reconcile", "Revoke", "Claim", "BeginSettlement"}
    assert done >= {"CompleteSettlement", "EndClaim"}
