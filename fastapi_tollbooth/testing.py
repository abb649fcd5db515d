"""What users test their priced routes with. The fixtures of `pytest_plugin` are made of these.

    def test_weather(paying_client, tollbooth):
        assert paying_client.get("/weather").status_code == 200
        tollbooth.assert_charged("$0.01")

No money moves and no node is asked: a `FakeRail` stands for all ways to pay, and the ledger, a real one, is in memory.
"""

import asyncio
import secrets
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI
from sqlalchemy import Row, Select, select
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from fastapi_tollbooth.dependencies import get_tollbooth
from fastapi_tollbooth.errors import CredentialRefused, Unavailable
from fastapi_tollbooth.ledger import reports
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Capture, Fund, Void
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.reports import TollFilter
from fastapi_tollbooth.ledger.tables import metadata
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.money import Asset, Money
from fastapi_tollbooth.pricing import RoutePrice
from fastapi_tollbooth.quoting import Compute
from fastapi_tollbooth.rails import Authorization, Challenge, RawHeaders, Receipt
from fastapi_tollbooth.routes import with_mounted
from fastapi_tollbooth.settings import TollboothSettings
from fastapi_tollbooth.toll import Quote, Toll, free_toll
from fastapi_tollbooth.tollbooth import Tollbooth

T = TypeVar("T")

PAYMENT_HEADER = "X-Fake-Payment"
_RAW_HEADER = PAYMENT_HEADER.lower().encode()


@dataclass(slots=True)
class _FakePayment:
    quote: Quote
    paid: bool = False


class FakeRail:
    """A way to pay that needs nobody, with a fault switch. Per-request: one payment is good for one paid answer."""

    name = "fake"
    settles_elsewhere = True
    for_development = True

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._payments: dict[str, _FakePayment] = {}
        self.settlement_fails = False
        self.silent = False

    def pay(self, payment_id: str) -> None:
        """Play the caller's wallet."""
        self._payments[payment_id].paid = True

    def credential(self, headers: RawHeaders) -> str | None:
        """The payment id in ``X-Fake-Payment``."""
        return next((value.decode("latin-1") for name, value in headers if name == _RAW_HEADER), None)

    async def challenge(self, quote: Quote, presented: str | None) -> Challenge:
        """An id to pay."""
        payment_id = secrets.token_hex(8)
        self._payments[payment_id] = _FakePayment(quote._replace(connection=None))
        headers = (("WWW-Authenticate", f'Fake payment="{payment_id}"'),)
        return Challenge(headers, {"fakePayment": payment_id}, datetime.now(UTC) + timedelta(minutes=10))

    async def authorize(self, credential: str, quote: Quote) -> Authorization:
        """Promise what was paid to the toll."""
        if self.silent:
            raise Unavailable("settlement_unconfirmed", "The fake rail does not answer: the test told it so.")
        payment = self._payments.get(credential)
        if payment is None or not payment.paid:
            raise CredentialRefused("not_paid", "The fake payment was not made.")
        # What was quoted holds for requests that are priced alike, whatever the price is by now; for no others.
        quoted = payment.quote
        if (quoted.route, quoted.variant) != (quote.route, quote.variant):
            raise CredentialRefused("wrong_resource", "The fake payment is for another request.")
        account = f"fake:{credential}"
        if quote.admit is not None:
            await quote.admit(account)
        record = Payment(self.name, account, quoted.price.amount, quoted.price.asset, account)
        fund, authorize = Fund(account, quoted.price, record), Authorize(account, quoted.price, quote.route)
        outcome = (await self._ledger.apply(fund, authorize))[-1]
        if not isinstance(outcome, Authorized):
            raise CredentialRefused("already_spent", "The fake payment was spent.")
        return Authorization(str(outcome.toll), quoted.price, None, account, outcome)

    async def hold(self, toll: Toll) -> Receipt:
        """Make sure of the money of a metered toll, unless the test has settlement fail."""
        if self.settlement_fails:
            raise CredentialRefused("settlement_failed", "The fake settlement failed: the test told it so.")
        return Receipt((("X-Fake-Receipt", toll.id),))

    async def capture(self, toll: Toll) -> Receipt:
        """Earn the money, unless the test has settlement fail."""
        if self.settlement_fails:
            raise CredentialRefused("settlement_failed", "The fake settlement failed: the test told it so.")
        outcome: Authorized = toll.authorization
        await self._ledger.apply(Capture(outcome.account_id, outcome.toll, toll.charge.amount))
        return Receipt((("X-Fake-Receipt", toll.id),))

    async def void(self, toll: Toll) -> None:
        """Give the money back."""
        outcome: Authorized = toll.authorization
        await self._ledger.apply(Void(outcome.account_id, outcome.toll))

    async def reconcile(self) -> int:
        """Nothing is ever lost here."""
        return 0

    async def aclose(self) -> None:
        """Nobody is asked."""

    def security_scheme(self) -> dict[str, Any]:
        """An API key in ``X-Fake-Payment``."""
        return {"type": "apiKey", "in": "header", "name": PAYMENT_HEADER}

    def offer(self, price: Money | None) -> dict[str, Any]:
        """One payment per request."""
        return {"intent": "charge", "method": "fake", "amount": str(price) if price else None}


class FakeTollbooth(Tollbooth):
    """A `Tollbooth` for tests: a fake rail, a ledger in memory, and questions to ask about what was charged."""

    def __init__(self) -> None:
        settings = TollboothSettings(
            database_url="sqlite://",
            environment="development",
            free_tier=None,
            free_rate_limit=None,
            unpaid_rate_limit=None,
            _env_file=None,
        )
        super().__init__(settings)
        self.rail = FakeRail(self.ledger)
        self._given_rails = (self.rail,)
        self._free = False

    async def authorize(self, price: RoutePrice, connection: HTTPConnection, compute: Compute | None = None) -> Toll:
        """Take the toll, or let the request pass while there is a free pass."""
        if self._free:
            return free_toll(await self.quote(price, connection, compute))
        return await super().authorize(price, connection, compute)

    async def refuse_unpaid(
        self, price: RoutePrice, connection: HTTPConnection, compute: Compute | None = None
    ) -> None:
        """Refuse as the real one does, unless there is a free pass."""
        if not self._free:
            await super().refuse_unpaid(price, connection, compute)

    def charges(self) -> list[Money]:
        """What tolls were charged so far, refunds and corrections included, in order. What was voided is not here."""
        captured = TollFilter(state="captured", limit=sys.maxsize)
        tolls = run(self.ledger.read(partial(reports.tolls, which=captured)))
        costs = {toll.toll: toll.cost for toll in tolls}
        return [costs[row.toll_id] for row in self._journal() if row.kind == "charge" and row.phase == "post"]

    def assert_charged(self, *amounts: str) -> None:
        """Fail unless exactly these charges were made, in this order."""
        expected = [Money.parse(amount) for amount in amounts]
        charged = self.charges()
        assert charged == expected, (
            f"expected charges {_list(expected)}, found {_list(charged)}\nledger:\n{self._describe()}"
        )

    def assert_not_charged(self) -> None:
        """Fail if anything was charged, or is still promised to a request that has ended."""
        journal = self._journal()
        phases = [row.phase for row in journal if row.kind == "charge"]
        pending = 2 * phases.count("pending") - len(phases)
        assert not self.charges(), f"expected no charge, found {_list(self.charges())}\nledger:\n{self._describe()}"
        assert not pending, f"{pending} tolls are still open\nledger:\n{self._describe()}"

    @contextmanager
    def settlement_fails(self) -> Iterator[None]:
        """Have every settlement fail: responses are withheld and nothing is charged."""
        self.rail.settlement_fails = True
        try:
            yield
        finally:
            self.rail.settlement_fails = False

    @contextmanager
    def node_is_silent(self) -> Iterator[None]:
        """Have the rail not answer where a credential waits: callers get 503 and no challenge."""
        self.rail.silent = True
        try:
            yield
        finally:
            self.rail.silent = False

    @contextmanager
    def free_pass(self) -> Iterator[None]:
        """Let every request pass without a toll, for tests that are about something else."""
        self._free = True
        try:
            yield
        finally:
            self._free = False

    def _journal(self) -> Sequence[Row[Any]]:
        transfer, account = metadata.tables["tollbooth_transfer"], metadata.tables["tollbooth_account"]
        columns = (transfer.c.kind, transfer.c.phase, transfer.c.amount, transfer.c.toll_id, transfer.c.route)
        statement: Select[Any] = (
            select(*columns, account.c.asset)
            .join(account, account.c.id == transfer.c.debit_account_id)
            .where(transfer.c.kind != "fund")
            .order_by(transfer.c.id)
        )
        return run(self.ledger.read(lambda connection: connection.execute(statement).all()))

    def _describe(self) -> str:
        steps = [(row.phase if row.kind == "charge" else row.kind, row) for row in self._journal()]
        lines = [f"  {step:8} {Money(row.amount, Asset(row.asset))!s:>12}  {row.route}" for step, row in steps]
        return "\n".join(lines) or "  (empty)"


class PayingClient(TestClient):
    """A test client that pays each 402 of a `FakeRail` and sends the request again, body and all."""

    def __init__(self, app: FastAPI, tollbooth: FakeTollbooth, **options: Any) -> None:
        super().__init__(app, **options)
        self._rail = tollbooth.rail

    def send(self, request: Any, **options: Any) -> Any:
        """Send, and on a 402 pay and send once more."""
        response = super().send(request, **options)
        payment_id = None
        if response.status_code == 402:
            response.read()
            payment_id = response.json().get("fakePayment")
        if payment_id is None:
            return response
        self._rail.pay(payment_id)
        request.headers[PAYMENT_HEADER] = payment_id
        return super().send(request, **options)


@contextmanager
def replaced(app: FastAPI, tollbooth: Tollbooth) -> Iterator[None]:
    """Have an application and those mounted in it use another tollbooth, and the old one again afterwards."""
    apps = [each for _, each in with_mounted(app)]
    before: list[Callable[..., Any] | None] = [each.dependency_overrides.get(get_tollbooth) for each in apps]
    for each in apps:
        each.dependency_overrides[get_tollbooth] = lambda: tollbooth
    try:
        yield
    finally:
        for each, override in zip(apps, before, strict=True):
            if override is None:
                each.dependency_overrides.pop(get_tollbooth, None)
            else:
                each.dependency_overrides[get_tollbooth] = override


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from synchronous code, also when an event loop is running in this thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _list(amounts: list[Money]) -> str:
    return ", ".join(map(str, amounts)) or "none"
