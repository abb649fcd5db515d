"""Whether a ledger's books are right after the load: every served call charged once, every balance explained."""

from dataclasses import dataclass

from sqlalchemy import create_engine, text


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
SELECT a.id, a."key", a.asset, a.posted, a.pending, coalesce(c.total, 0) - coalesce(d.total, 0)
  FROM tollbooth_account AS a
  LEFT JOIN (SELECT credit_account_id AS id, sum(amount) AS total
               FROM tollbooth_transfer WHERE phase = 'post' GROUP BY 1) AS c ON c.id = a.id
  LEFT JOIN (SELECT debit_account_id AS id, sum(amount) AS total
               FROM tollbooth_transfer WHERE phase = 'post' GROUP BY 1) AS d ON d.id = a.id
"""
_CHARGES = "SELECT count(*) FROM tollbooth_transfer WHERE phase = 'post' AND kind = 'charge'"
_UNRESOLVED = """
SELECT count(*) FROM tollbooth_transfer AS t
 WHERE phase = 'pending' AND NOT EXISTS (SELECT 1 FROM tollbooth_transfer AS r WHERE r.toll_id = t.id)
"""


def audit(url: str, answers: int) -> Audit:
    """Compare the ledger of a stopped server with the number of paid answers that its callers got."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        charges = int(connection.execute(text(_CHARGES)).scalar_one())
        unresolved = int(connection.execute(text(_UNRESOLVED)).scalar_one())
        accounts = connection.execute(text(_REPLAY)).all()
    engine.dispose()
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
