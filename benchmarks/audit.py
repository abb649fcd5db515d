"""Whether a ledger's books are right after the load: every served call charged once, every balance explained."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Audit:
    """What the books of one server say; ``problems`` is empty when they are right."""

    answers: int
    charges: int
    accounts: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        verdict = "; ".join(self.problems) or "nothing lost, nothing charged twice, all balances match"
        return f"{self.answers} paid answers, {self.charges} posted charges, {self.accounts} accounts: {verdict}"


_REPLAY = """
SELECT a.id, a."key", a.asset, a.posted, a.pending,
       coalesce((SELECT sum(amount) FROM tollbooth_transfer WHERE phase = 'post' AND credit_account_id = a.id), 0)
     - coalesce((SELECT sum(amount) FROM tollbooth_transfer WHERE phase = 'post' AND debit_account_id = a.id), 0)
  FROM tollbooth_account AS a
"""
_CHARGES = "SELECT count(*) FROM tollbooth_transfer WHERE phase = 'post' AND kind = 'charge'"
_UNRESOLVED = """
SELECT count(*) FROM tollbooth_transfer AS t
 WHERE phase = 'pending' AND NOT EXISTS (SELECT 1 FROM tollbooth_transfer AS r WHERE r.toll_id = t.id)
"""


def audit(database: Path, answers: int) -> Audit:
    """Compare the ledger of a stopped server with the number of paid answers that its callers got."""
    with closing(sqlite3.connect(database)) as connection:
        (charges,) = connection.execute(_CHARGES).fetchone()
        (unresolved,) = connection.execute(_UNRESOLVED).fetchone()
        accounts = connection.execute(_REPLAY).fetchall()
    problems = []
    # Each answer was waited for, so a surplus would be as wrong as a loss.
    if charges != answers:
        problems.append(f"{abs(charges - answers)} charges {'lost' if charges < answers else 'too many'}")
    if unresolved:
        problems.append(f"{unresolved} charges still pending")
    sums: dict[str, int] = {}
    for _, key, asset, posted, pending, replayed in accounts:
        sums[asset] = sums.get(asset, 0) + posted
        if posted != replayed:
            problems.append(f"account {key} has {posted}, its transfers say {replayed}")
        if pending:
            problems.append(f"account {key} still has {pending} pending")
    problems += [f"the accounts in {asset} sum to {total}, not zero" for asset, total in sums.items() if total]
    return Audit(answers, charges, len(accounts), tuple(problems))
