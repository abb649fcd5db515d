"""``python -m tests.kill_loop``: kill real workers at random under load, and see whether a cent is lost or doubled.

Two uvicorn processes share one ledger. Callers with an account each keep asking, one of the workers is killed with
SIGKILL every moment and started again, and what the callers were answered is compared with what their accounts say
afterwards. A caller may have been answered for a charge that died with the process, once for each connection that a
kill broke; it may never have paid for an answer that it did not get.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection, text

from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.ledger.sweeper import sweep
from fastapi_tollbooth.ledger.writer import Ledger
from tests.databases import DATABASES, running_postgres, sqlite_url
from tests.till import PRICE, Caller, Worker, fund, workers

CALLS = 1_000_000


@dataclass(frozen=True, slots=True)
class Report:
    """What a run found. ``given_away`` are answers that nobody was charged for, ``overcharged`` charges without one."""

    kills: int
    answered: int
    broken: int
    given_away: int
    overcharged: int
    swept: int
    problems: tuple[str, ...]


async def kill_loop(url: str, directory: Path, *, kills: int, callers: int, seed: int) -> Report:
    """Load two workers on one ledger, kill one of them again and again, and compare."""
    chance = random.Random(seed)
    crowd = [Caller(f"caller-{number}") for number in range(callers)]
    ledger = Ledger(url)
    await fund(ledger, [caller.account for caller in crowd], CALLS)
    await ledger.close()
    stop = asyncio.Event()
    with workers(2, url, directory) as pair:
        asking = [asyncio.create_task(_ask(caller, pair, stop, chance)) for caller in crowd]
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(0.02, 0.3))
            victim = chance.choice(pair)
            await asyncio.to_thread(victim.kill)
            await asyncio.to_thread(victim.start)
            await asyncio.to_thread(victim.wait)
        stop.set()
        await asyncio.gather(*asking)
        problems = _printed(pair)
    # A worker may have been killed while it was sweeping: its lease runs out, which need not be waited for here.
    await ledger.execute(lambda connection: connection.execute(text("UPDATE tollbooth_sweep SET leased_until = NULL")))
    swept = await sweep(ledger, timedelta(0))
    audit = await ledger.read(verify)
    problems += [f"verify: {audit.discrepancy}"] if audit.discrepancy else []
    problems += [f"{audit.open_tolls} tolls are still open"] if audit.open_tolls else []
    charged = await ledger.read(_charged)
    await ledger.close()
    given_away = overcharged = 0
    for caller in crowd:
        difference = caller.answered - charged[caller.account]
        given_away += max(difference, 0)
        overcharged += max(-difference, 0)
        if not 0 <= difference <= caller.broken:
            problems.append(
                f"{caller.account}: {caller.answered} answered, {charged[caller.account]} charged, "
                f"{caller.broken} connections broken"
            )
    answered, broken = sum(caller.answered for caller in crowd), sum(caller.broken for caller in crowd)
    return Report(kills, answered, broken, given_away, overcharged, swept, tuple(problems))


async def _ask(caller: Caller, pair: Sequence[Worker], stop: asyncio.Event, chance: random.Random) -> None:
    port = chance.choice(pair).port
    while not stop.is_set():
        status = await caller.call(port)
        if not status:
            # Broken, or not there yet: on to whichever worker is.
            port = chance.choice(pair).port
            await asyncio.sleep(0.01)
        elif status != 200:
            raise RuntimeError(f"{caller.account} was answered {status}")
    caller.close()


def _charged(connection: Connection) -> dict[str, int]:
    """How many calls each account has paid for."""
    rows = connection.execute(text("SELECT \"key\", posted FROM tollbooth_account WHERE kind = 'payer'"))
    return {key: CALLS - posted // PRICE for key, posted in rows}


def _printed(pair: Sequence[Worker]) -> list[str]:
    logs = "".join(worker.log.read_text() for worker in pair)
    return [f"the workers' logs say {word!r}" for word in ("Traceback", "database is locked") if word in logs]


def main() -> int:
    """Run the loop; the exit status is 0 when nothing was lost, doubled or charged for nothing."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill_loop", description=main.__doc__)
    parser.add_argument("--database", choices=DATABASES, default="sqlite")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    started = time.monotonic()

    def run(url: str, directory: str) -> Report:
        loop = kill_loop(url, Path(directory), kills=options.kills, callers=options.callers, seed=options.seed)
        return asyncio.run(loop)

    with tempfile.TemporaryDirectory(prefix="tollbooth-kills-") as directory:
        if options.database == "sqlite":
            report = run(sqlite_url(Path(directory)), directory)
        else:
            with running_postgres() as server:
                report = run(server.fresh(), directory)
    print(f"{options.database}, seed {options.seed}, {time.monotonic() - started:.0f} s: {report}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
