"""Real servers to be loaded, starved and killed by tests: an application with one priced route, under uvicorn.

Its callers name a prepaid account in a header. Nothing but the ledger stands between them and the handler, so a
thousand callers cost a thousand rows and no cryptography.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal

import uvicorn
from fastapi import Depends, FastAPI

from fastapi_tollbooth import Asset, Money, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.errors import CredentialRefused
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Capture, Fund, Void
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.rails import Authorization, Challenge, RawHeaders, Receipt
from fastapi_tollbooth.toll import Quote, Toll

PRICE = 10_000
START_SECONDS = 30.0
STOP_SECONDS = 20.0

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.till", "fastapi_tollbooth.ledger.postgres", "uvicorn.protocols.http.auto"])


class PrepaidRail:
    """Charges the account that ``X-Account`` names."""

    name = "prepaid"
    settles_elsewhere = False

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def credential(self, headers: RawHeaders) -> str | None:
        return next((value.decode() for name, value in headers if name == b"x-account"), None)

    async def challenge(self, quote: Quote, presented: str | None) -> Challenge:
        return Challenge((("WWW-Authenticate", "Prepaid"),), {}, datetime.now(UTC) + timedelta(minutes=1))

    async def authorize(self, credential: str, quote: Quote) -> Authorization:
        [outcome] = await self._ledger.apply(Authorize(credential, quote.price, quote.route))
        if not isinstance(outcome, Authorized):
            raise CredentialRefused("insufficient_credit", "There is not enough in this account.")
        return Authorization(str(outcome.toll), quote.price, outcome.balance, credential, outcome)

    async def hold(self, toll: Toll) -> Receipt:
        """The credit is promised already."""
        return Receipt()

    async def capture(self, toll: Toll) -> Receipt:
        authorized: Authorized = toll.authorization
        self._ledger.apply_later(Capture(authorized.account_id, authorized.toll))
        return Receipt()

    async def void(self, toll: Toll) -> None:
        authorized: Authorized = toll.authorization
        self._ledger.apply_later(Void(authorized.account_id, authorized.toll))

    async def reconcile(self) -> int:
        """Nothing is ever lost here."""
        return 0

    async def aclose(self) -> None:
        """Nobody is asked."""

    def security_scheme(self) -> dict[str, Any]:
        return {"type": "apiKey", "in": "header", "name": "X-Account"}

    def offer(self, price: Money | None) -> dict[str, Any]:
        return {"intent": "charge", "method": "prepaid", "amount": None}


def create() -> FastAPI:
    """The application, configured by ``TOLLBOOTH_*`` variables. ``/runs`` says how often the handler has run."""
    app, runs = FastAPI(), [0]
    tollbooth = Tollbooth(TollboothSettings(_env_file=None))
    tollbooth._given_rails = [PrepaidRail(tollbooth.ledger)]
    tollbooth.install(app)

    @app.get("/paid", dependencies=[Depends(priced("$0.01"))])
    async def paid() -> str:
        runs[0] += 1
        return "ok"

    @app.get("/runs")
    async def count() -> int:
        return runs[0]

    return app


async def fund(ledger: Ledger, accounts: Sequence[str], calls: int) -> None:
    """Give each account the money for so many calls."""
    for start in range(0, len(accounts), 500):
        await asyncio.gather(
            *(
                ledger.apply(Fund(name, Money(PRICE * calls, Asset.USD), Payment("prepaid", name, 1, Asset.BTC, name)))
                for name in accounts[start : start + 500]
            )
        )


def _serve(port: int, log: Path, settings: dict[str, str]) -> None:
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    for name in [name for name in os.environ if name.startswith("TOLLBOOTH_")]:
        del os.environ[name]
    os.environ.update(settings)
    uvicorn.run("tests.till:create", factory=True, port=port, access_log=False, log_level="warning")


@dataclass(slots=True)
class Worker:
    """One uvicorn process with one worker; it can be killed and started again on its port.

    It is forked from a server that has imported everything and done nothing, so that starting takes no second.
    """

    url: str
    log: Path
    port: int = field(default_factory=lambda: free_port())
    process: ForkServerProcess | None = None

    def start(self) -> None:
        """Start it; `wait` says when it serves."""
        settings = {
            "TOLLBOOTH_DATABASE_URL": self.url,
            "TOLLBOOTH_SECRET": "s" * 32,
            "TOLLBOOTH_UNPAID_RATE_LIMIT": "off",
        }
        self.process = _FORKS.Process(target=_serve, args=(self.port, self.log, settings), daemon=True)
        self.process.start()

    def wait(self) -> None:
        """Return when it answers."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process is not None and self.process.is_alive():
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self._join()

    def stop(self) -> None:
        """End it cleanly."""
        if self.process is not None:
            self.process.terminate()
            self._join()

    def _join(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.join(STOP_SECONDS)
            if process.is_alive():
                process.kill()
                raise RuntimeError(f"the server did not stop:\n{self.log.read_text()}")
            process.close()


@contextmanager
def workers(number: int, url: str, directory: Path) -> Iterator[list[Worker]]:
    """So many running workers on one ledger."""
    made = [Worker(url, directory / f"worker{index}.log") for index in range(number)]
    try:
        for worker in made:
            worker.start()
        for worker in made:
            worker.wait()
        yield made
    finally:
        for worker in made:
            worker.stop()


@dataclass(slots=True)
class Caller:
    """One connection that pays from one account, one request after the other, and keeps count of what it was told."""

    account: str
    answered: int = 0
    refused: int = 0
    unavailable: int = 0
    broken: int = 0
    _streams: "tuple[asyncio.StreamReader, asyncio.StreamWriter] | None" = None

    async def call(self, port: int) -> int | None:
        """Ask for the priced route once; the status, or None when the connection broke and nobody knows."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return 0
        reader, writer = self._streams
        try:
            writer.write(f"GET /paid HTTP/1.1\r\nHost: x\r\nX-Account: {self.account}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            await reader.readexactly(length)
        except (OSError, EOFError):
            self.broken += 1
            self.close()
            return None
        status = int(head[9:12])
        self.answered += status == 200
        self.refused += status == 402
        self.unavailable += status == 503
        return status

    def close(self) -> None:
        """Let go of the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


FUNDED = 100


def calls_until_death(url: str, point: int, moment: Literal["before", "after"]) -> int:
    """Have a process make six calls, and die before or after the commit of that number; how many it has answered."""
    receiver, sender = _FORKS.Pipe(duplex=False)
    process = _FORKS.Process(target=_call_and_die, args=(url, point, moment, sender), daemon=True)
    process.start()
    sender.close()
    answered = 0
    with contextlib.suppress(EOFError):
        while True:
            receiver.recv()
            answered += 1
    receiver.close()
    process.join(STOP_SECONDS)
    if process.exitcode not in (0, -9):
        raise RuntimeError(f"the process ended with {process.exitcode}")
    process.close()
    return answered


def _call_and_die(url: str, point: int, moment: str, answers: "Connection[str, str]") -> None:
    ledger = Ledger(url)
    store, commits = ledger._store, 0
    dialect: Any = store._dialect
    save, transact = dialect.save, store.transact

    def saving(*arguments: Any) -> None:
        nonlocal commits
        save(*arguments)
        commits += 1
        if (commits, moment) == (point, "before"):
            os.kill(os.getpid(), signal.SIGKILL)

    def transacting(groups: Any) -> Any:
        outcomes = transact(groups)
        if (commits, moment) == (point, "after"):
            os.kill(os.getpid(), signal.SIGKILL)
        return outcomes

    async def call() -> None:
        await fund(ledger, ["a"], FUNDED)
        for number in range(6):
            [toll] = await ledger.apply(Authorize("a", Money(PRICE, Asset.USD), "/"))
            assert isinstance(toll, Authorized)
            if number == 3:
                ledger.apply_later(Void(toll.account_id, toll.toll))
            else:
                ledger.apply_later(Capture(toll.account_id, toll.toll))
                answers.send("answered")
        await ledger.close()

    dialect.save, store.transact = saving, transacting  # type: ignore[method-assign]
    asyncio.run(call())
