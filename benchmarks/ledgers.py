"""``python -m benchmarks.ledgers``: paid calls on each database, with one worker and two, on one account and on many.

Beside them the way that it is usually done, an ORM session per request. Every measurement is compared with one of bare
FastAPI with as many workers directly before it. One process easily differs from another of the same program by some
percent for as long as it lives, so all are started several times. The books of every ledger are checked at the end.
"""

import argparse
import random
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.audit import audit
from benchmarks.load import LoadError, Order, Result, encode, measure
from benchmarks.report import summarize, table
from benchmarks.servers import Server, ServerError, buy_credits, serve
from tests.databases import PostgresServer, running_postgres

ACCOUNTS = 1_000
CONNECTIONS = 64
WARM_UP_SECONDS = 1.0
FIRST_USE_SECONDS = 5.0


@dataclass(slots=True)
class Case:
    """Requests to one server, what each round measured, and what the bare server did directly before."""

    name: str
    server: Server
    requests: tuple[str, ...]
    bare: "Case | None" = None
    results: list[Result] = field(default_factory=list)
    before: list[Result] = field(default_factory=list)
    opening: int = 0

    def add(self, other: "Case") -> None:
        """Count what was measured after another start."""
        if other is not self:
            self.results += other.results
            self.before += other.before


def main() -> int:
    """Run the benchmark; the exit status is 0 when every answer and every book was right."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledgers", description=main.__doc__)
    parser.add_argument("--starts", type=int, default=3, help="how often all servers are started")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of measurements after each start")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    cases: dict[str, Case] = {}
    problems: list[str] = []
    try:
        for start in range(options.starts):
            print(f"start {start + 1} of {options.starts}", file=sys.stderr, flush=True)
            for case in _started(options.workers, options.rounds, options.seconds, problems):
                cases.setdefault(case.name, case).add(case)
    except (LoadError, ServerError) as error:
        print(f"the run failed: {error}", file=sys.stderr)
        return 1
    rows = [summarize(case.name, CONNECTIONS, case.results, case.before or case.results) for case in cases.values()]
    print(f"medians of {options.starts} times {options.rounds} rounds, ratios to bare FastAPI with as many workers")
    print("directly before, all with the garbage collector tuned alike (TOLLBOOTH_TUNE_GC=true)\n")
    print(table(rows))
    print("\nbooks: " + ("; ".join(problems) or "nothing lost, nothing charged twice, all balances match"))
    return 1 if problems else 0


def _started(all_workers: list[int], rounds: int, seconds: float, problems: list[str]) -> list[Case]:
    cases: list[Case] = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollbooth-ledgers-")))
        postgres = stack.enter_context(running_postgres(durable=True))
        with ExitStack() as servers:
            for workers in all_workers:
                cases += _cases(servers, directory, postgres, workers)
            _measure(cases, rounds, seconds)
        problems += _problems(cases)
    return cases


def _cases(servers: ExitStack, directory: Path, postgres: PostgresServer, workers: int) -> list[Case]:
    label = f"{workers} worker{'s' if workers > 1 else ''}"
    bare = Case(
        f"bare FastAPI, {label}",
        servers.enter_context(serve("bare", directory, tuned_gc=True, workers=workers)),
        (encode("/paid"),),
    )
    cases = [bare]
    # A server and a ledger for each, so that none has the accounts of another in its memory.
    for accounts, of_them in ((1, "1 account"), (ACCOUNTS, f"{ACCOUNTS:,} accounts")):
        for name, url in {
            "SQLite": f"sqlite:///{directory}/{workers}-{accounts}.db",
            "PostgreSQL": postgres.fresh(),
        }.items():
            server = servers.enter_context(serve("priced", directory, tuned_gc=True, ledger=url, workers=workers))
            requests = tuple(encode("/paid", [("Authorization", credit)]) for credit in buy_credits(server, accounts))
            cases.append(Case(f"{name}, {of_them}, {label}", server, requests, bare))
    if workers == 1:
        for name, url in {"SQLite": f"sqlite:///{directory}/orm.db", "PostgreSQL": postgres.empty()}.items():
            server = servers.enter_context(serve("orm", directory, tuned_gc=True, ledger=url))
            cases.append(Case(f"{name}, ORM session, {label}", server, (encode("/paid"),), bare))
    return cases


def _measure(cases: list[Case], rounds: int, seconds: float) -> None:
    compared = [(case, case.bare) for case in cases if case.bare is not None]
    for case, _ in compared:
        # The first use of a credential verifies it and opens its account, which is not what is compared.
        case.opening = measure(_order(case, FIRST_USE_SECONDS)).answers
    for round_ in range(rounds):
        print(f"round {round_ + 1} of {rounds}", file=sys.stderr, flush=True)
        for case, bare in random.sample(compared, len(compared)):
            # Close together: the machine's speed drifts by more than what is compared.
            case.before.append(measure(_order(bare, seconds)))
            case.results.append(measure(_order(case, seconds)))
            bare.results.append(case.before[-1])


def _order(case: Case, seconds: float) -> Order:
    return Order(case.server.port, case.requests, 200, CONNECTIONS, WARM_UP_SECONDS, seconds)


def _problems(cases: list[Case]) -> list[str]:
    answers: dict[str, int] = {}
    for case in cases:
        if case.bare is not None and "ORM" not in case.name:
            url = case.server.url_of_ledger
            answers[url] = answers.get(url, 0) + case.opening + sum(result.answers for result in case.results)
    return [problem for url, count in answers.items() for problem in audit(url, count).problems]


if __name__ == "__main__":
    sys.exit(main())
