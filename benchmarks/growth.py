"""``python -m benchmarks.growth``: what a charge costs while the journal grows from ten thousand rows to five million.

Rows are made by SQL, as served requests would have left them, and the books are verified at the end. No server and no
HTTP: batches of charges and captures straight through the ledger's transactions.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from sqlalchemy import Connection, text

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Capture, Fund
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.reports import statement
from fastapi_tollbooth.ledger.store import Store
from tests.databases import running_postgres

ACCOUNTS = 1_000
BATCH = 32
WARM_UP = 50
PRICE = 10_000
SIZES = (10_000, 100_000, 1_000_000, 5_000_000)

_NUMBERS = {
    "sqlite": "WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < :tolls)",
    "postgresql": "WITH s (i) AS (SELECT generate_series(1, :tolls))",
}
_ROWS = """
, p (id, n) AS (SELECT id, row_number() OVER (ORDER BY id) - 1 FROM tollbooth_account WHERE kind = 'payer')
, r (id) AS (SELECT id FROM tollbooth_account WHERE "key" = 'revenue:USD')
INSERT INTO tollbooth_transfer
       (id, debit_account_id, credit_account_id, amount, kind, phase, toll_id, route, created_at)
SELECT :base + 2 * s.i - 1 + h.half, p.id, r.id, :price, 'charge', CASE h.half WHEN 0 THEN 'pending' ELSE 'post' END,
       CASE h.half WHEN 1 THEN :base + 2 * s.i - 1 END, '/paid', {created_at}
  FROM s CROSS JOIN r JOIN p ON p.n = s.i % :accounts CROSS JOIN (SELECT 0 AS half UNION ALL SELECT 1) AS h
 ORDER BY 1
"""


def main() -> int:
    """Run the benchmark; the exit status is 0 when the books are right in the end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=main.__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--batches", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tollbooth-growth-") as directory:
        right = _grow("SQLite", f"sqlite:///{directory}/ledger.db", options.sizes, options.batches)
        size = Path(directory, "ledger.db").stat().st_size
        print(f"SQLite: {size / max(options.sizes):.0f} bytes for each transfer")
    with running_postgres(durable=True) as server:
        url = server.fresh()
        right = _grow("PostgreSQL", url, options.sizes, options.batches) and right
        database = url.partition("?")[0].rpartition("/")[2]
        [(size,)] = server.execute(f"SELECT pg_database_size('{database}')")
        print(f"PostgreSQL: {size / max(options.sizes):.0f} bytes for each transfer")
    return 0 if right else 1


def _grow(name: str, url: str, sizes: Sequence[int], batches: int) -> bool:
    store = Store(url)
    keys = [f"payer-{number}" for number in range(ACCOUNTS)]
    store.transact([[Fund(key, Money(10**15, Asset.USD), Payment("prepaid", key, 1, Asset.BTC, key))] for key in keys])
    first = _charge(store, keys)
    store.transact([[Capture(account, toll)] for account, toll in first])
    accounts = [account for account, _ in first]
    for size in sizes:
        store.execute(lambda connection, size=size: _fill(connection, size))  # type: ignore[misc]
        times = []
        for number in range(-WARM_UP, batches):
            if number == 0:
                os.sync()  # what was filled in, and waits for the disk, is not what is measured
            chosen = random.sample(accounts, BATCH)
            before = time.perf_counter()
            tolls = _charge(store, chosen)
            store.transact([[Capture(account, toll)] for account, toll in tolls])
            if number >= 0:
                times.append((time.perf_counter() - before) / BATCH)
        times.sort()
        print(
            f"{name}, {size:>9,} transfers: {median(times) * 1e6:5.1f} us a call (charge and capture), "
            f"p99 of batches {times[len(times) * 99 // 100] * BATCH * 1e3:5.1f} ms",
            flush=True,
        )
    before = time.perf_counter()
    movements = store.read(lambda connection: sum(1 for _ in statement(connection, keys[0])))
    print(f"{name}: the statement of one account, {movements:,} movements, took {time.perf_counter() - before:.2f} s")
    before = time.perf_counter()
    audit = store.read(verify)
    print(f"{name}: verify of {audit.transfers:,} transfers took {time.perf_counter() - before:.0f} s: {audit}")
    store.close()
    return audit.discrepancy is None and not audit.open_tolls


def _charge(store: Store, accounts: Sequence[int | str]) -> list[tuple[int, int]]:
    outcomes = store.transact([[Authorize(account, Money(PRICE, Asset.USD), "/paid")] for account in accounts])
    return [(outcome.account_id, outcome.toll) for [outcome] in outcomes if isinstance(outcome, Authorized)]


def _fill(connection: Connection, size: int) -> None:
    there, last = connection.execute(text("SELECT count(*), max(id) FROM tollbooth_transfer")).one()
    tolls = (size - there) // 2
    if tolls <= 0:
        return
    served = connection.dialect.name == "postgresql"
    if served:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
    created_at = "now()" if served else "'2026-01-01 00:00:00.000000'"
    statement = text(_NUMBERS[connection.dialect.name] + _ROWS.format(created_at=created_at))
    connection.execute(statement, {"tolls": tolls, "base": last, "price": PRICE, "accounts": ACCOUNTS})
    connection.execute(
        text("""UPDATE tollbooth_account SET posted = posted + :earned WHERE "key" = 'revenue:USD'"""),
        {"earned": tolls * PRICE},
    )
    counts = text(
        "UPDATE tollbooth_account SET posted = posted - :price * (:each + CASE WHEN "
        "(SELECT count(*) FROM tollbooth_account AS o WHERE o.kind = 'payer' AND o.id < tollbooth_account.id) "
        "BETWEEN 1 AND :rest THEN 1 ELSE 0 END) WHERE kind = 'payer'"
    )
    connection.execute(counts, {"price": PRICE, "each": tolls // ACCOUNTS, "rest": tolls % ACCOUNTS})
    if served:
        connection.execute(text("SELECT setval('tollbooth_id', :last)"), {"last": last + 2 * tolls + 10_000})


if __name__ == "__main__":
    sys.exit(main())
