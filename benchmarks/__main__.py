"""``python -m benchmarks``: start the servers, load them in turn, print ratios, and check the books."""

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from types import FrameType

from benchmarks import prices
from benchmarks.audit import Audit, audit
from benchmarks.load import LoadError, Order, Result, encode, measure
from benchmarks.report import Row, summarize, table
from benchmarks.servers import Server, ServerError, buy_credit, get, serve

WARM_UP_SECONDS = 0.5
BARE, FREE, UNPAID, PAID = "bare FastAPI", "unpriced route", "402 without credential", "paid, re-used credential"


@dataclass(frozen=True, slots=True)
class Case:
    """A request to a server whose garbage collector is tuned or not; its baseline is the bare one of the same kind."""

    name: str
    tuned: bool
    server: Server
    request: str
    status: int = 200


Results = dict[tuple[Case, int], list[Result]]


def main() -> int:
    """Run the benchmark; the exit status is 0 when every answer and every book was right."""
    options = _options()
    signal.signal(signal.SIGTERM, _exit)
    print(_environment(), flush=True)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="tollbooth-benchmark-") as name:
            directory = Path(name)
            print(f"one fsync where the ledgers are: {_fsync_seconds(directory) * 1e3:.2f} ms (median)", flush=True)
            results, cases = _measure_all(options, directory)
            audits = _audits(results, cases)
    except (LoadError, ServerError) as error:
        print(f"\nthe run failed: {error}", file=sys.stderr)
        return 1
    plain, tuned = (_rows(results, [case for case in cases if case.tuned is wanted]) for wanted in (False, True))
    print(f"\nmedians of {options.rounds} rounds, ratios to bare FastAPI in the same round\n")
    print(f"both servers with the garbage collector tuned (TOLLBOOTH_TUNE_GC=true)\n\n{table(tuned)}\n")
    print(f"both servers with it as it is\n\n{table(plain)}\n")
    for label, result in audits.items():
        print(f"books of the {label} server: {result}")
    print(f"\n{prices.report()}\n\ntook {time.monotonic() - started:.0f} s")
    if options.json is not None:
        _write_json(options, {"default": plain, "tuned_gc": tuned}, audits, results)
    return 1 if any(result.problems for result in audits.values()) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--rounds", type=_positive, default=5, help="how often each case is measured")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time of one case in one round")
    parser.add_argument("--connections", type=_positive, nargs="+", default=[1, 16, 64], help="keep-alive connections")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all that was measured to a file")
    options = parser.parse_args()
    if options.seconds <= 0:
        parser.error("--seconds must be more than zero")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _exit(number: int, _frame: FrameType | None) -> None:
    # An exception, so that every context is left and no server survives.
    raise SystemExit(128 + number)


def _environment() -> str:
    def installed(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"no {name}"

    packages = ", ".join(installed(name) for name in ("fastapi", "uvicorn", "uvloop", "httptools", "sqlalchemy"))
    return f"Python {platform.python_version()}, {packages}; {os.cpu_count()} cores"


def _fsync_seconds(directory: Path) -> float:
    # A ledger in memory would make durable look free: the reader can tell by this number.
    times = []
    with (directory / "fsync").open("wb") as file:
        for _ in range(50):
            file.write(bytes(4096))
            file.flush()
            before = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - before)
    return median(times)


def _measure_all(options: argparse.Namespace, directory: Path) -> tuple[Results, list[Case]]:
    with ExitStack() as servers:
        cases = []
        for tuned in (False, True):
            bare = servers.enter_context(serve("bare", directory, tuned_gc=tuned))
            priced = servers.enter_context(serve("priced", directory, tuned_gc=tuned))
            cases += _cases(bare, priced, tuned=tuned)
        results: Results = {}
        for round_ in range(options.rounds):
            print(f"round {round_ + 1} of {options.rounds}", file=sys.stderr, flush=True)
            for connections in options.connections:
                # The machine's speed drifts, so what is compared is measured close together and in no fixed order.
                for case in random.sample(cases, len(cases)):
                    order = Order(
                        case.server.port, (case.request,), case.status, connections, WARM_UP_SECONDS, options.seconds
                    )
                    results.setdefault((case, connections), []).append(_measure(case, order))
    return results, cases


def _measure(case: Case, order: Order) -> Result:
    try:
        return measure(order)
    except LoadError as error:
        raise LoadError(f"{case.name}, {order.connections} connections: {error}") from error


def _cases(bare: Server, priced: Server, *, tuned: bool) -> list[Case]:
    authorization = buy_credit(priced)
    # Compared on the free route, so that the measurements' paid answers are all that the ledger has charged.
    if get(bare, "/plain").content != get(priced, "/free").content:
        raise ServerError("the routes that are compared do not give the same answer")
    return [
        Case(BARE, tuned, bare, encode("/plain")),
        Case(FREE, tuned, priced, encode("/free")),
        Case(UNPAID, tuned, priced, encode("/paid"), status=402),
        Case(PAID, tuned, priced, encode("/paid", [("Authorization", authorization)])),
    ]


def _rows(results: Results, cases: Sequence[Case]) -> list[Row]:
    baseline = next(case for case in cases if case.name == BARE)
    connections = sorted({count for _, count in results})
    return [
        summarize(case.name, count, results[case, count], results[baseline, count])
        for case in cases
        for count in connections
    ]


def _audits(results: Results, cases: Sequence[Case]) -> dict[str, Audit]:
    audits = {}
    for case in cases:
        if case.name == PAID:
            answers = sum(
                result.answers for (measured, _), runs in results.items() if measured is case for result in runs
            )
            audits["tuned priced" if case.tuned else "priced"] = audit(case.server.url_of_ledger, answers)
    return audits


def _write_json(
    options: argparse.Namespace, tables: dict[str, list[Row]], audits: dict[str, Audit], results: Results
) -> None:
    document = {
        "environment": _environment(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "tables": {name: [asdict(row) for row in rows] for name, rows in tables.items()},
        "audits": {name: asdict(result) for name, result in audits.items()},
        "measurements": [
            {
                "case": case.name,
                "tuned_gc": case.tuned,
                "connections": count,
                "rounds": [asdict(result) for result in runs],
            }
            for (case, count), runs in results.items()
        ],
    }
    options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
