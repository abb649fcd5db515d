"""What is found by asking: the ledger's database, the node, the facilitators, Redis, the offers that they make."""

import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from sqlalchemy import Connection, select
from starlette.requests import HTTPConnection

from fastapi_tollbooth.doctor import Finding, Patient, ok, problem
from fastapi_tollbooth.errors import ConfigurationError, RailUnavailable, Refusal
from fastapi_tollbooth.ledger.tables import metadata
from fastapi_tollbooth.money import Money
from fastapi_tollbooth.rails import Rail
from fastapi_tollbooth.toll import Quote

SECONDS = 10.0
MOST_HEADER_BYTES = 8_192
MOST_SKEW = 30.0

_PRICE = Money.parse("$0.01")
_REQUEST = {
    "type": "http",
    "method": "GET",
    "scheme": "https",
    "path": "/doctor",
    "query_string": b"",
    "headers": [(b"host", b"api.example.com")],
}
_transfer = metadata.tables["tollbooth_transfer"]


async def ask(patient: Patient) -> AsyncIterator[Finding]:
    """Everything that is found; at least one finding for each check."""
    async for finding in database(patient):
        yield finding
    async for finding in offers(patient):
        yield finding
    async for finding in facilitators(patient):
        yield finding
    async for finding in shared_limits(patient):
        yield finding
    await patient.tollbooth.close()


async def database(patient: Patient) -> AsyncIterator[Finding]:
    """The ledger can be reached, has the tables of this version, and no entries from the future."""
    ledger = patient.tollbooth.ledger
    try:
        await ledger.check()
        newest = await ledger.read(_newest) if ledger.exists else None
    except ConfigurationError as error:
        yield problem("database", error.detail, "run `fastapi-tollbooth db upgrade`")
    except Refusal:
        yield problem("database", "the ledger's database does not answer", "start it, or mend TOLLBOOTH_DATABASE_URL")
    else:
        if newest is not None and (newest - datetime.now(UTC)).total_seconds() > MOST_SKEW:
            yield problem("clock", "the ledger has entries from the future", "have the clock set by NTP")
        yield ok("database", "the ledger answers" if ledger.exists else "there is no ledger yet: it will be made")


async def offers(patient: Patient) -> AsyncIterator[Finding]:
    """Every rail makes an offer for a cent, and all of them together fit into the headers of one answer."""
    size, found = 0, 0
    for rail in patient.tollbooth.rails:
        try:
            size += await _offer(rail, patient)
        except RailUnavailable as error:
            mend = "start the node or facilitator, mend its URL and key, or set TOLLBOOTH_BTC_USD"
            yield problem("offers", f"the rail {rail.name!r} can offer nothing: {error}", mend)
        else:
            found += 1
    if size > MOST_HEADER_BYTES:
        mend = "offer fewer networks, or shorten descriptions"
        detail = f"the headers of a 402 have {size} bytes, and proxies and clients take {MOST_HEADER_BYTES}"
        yield problem("402-size", detail, mend)
    elif found:
        yield ok("offers", f"{found} way{'' if found == 1 else 's'} to pay, in {size} bytes of headers")


async def facilitators(patient: Patient) -> AsyncIterator[Finding]:
    """The facilitators answer, and agree with this machine about the time."""
    settings = patient.tollbooth.settings.x402
    if settings.pay_to is None:
        return
    async with httpx.AsyncClient(timeout=SECONDS) as client:
        for url in dict.fromkeys(_texts(settings.facilitator_url)):
            try:
                answer = await client.get(f"{url.rstrip('/')}/supported")
            except httpx.HTTPError as error:
                mend = "start it, or mend TOLLBOOTH_X402__FACILITATOR_URL"
                yield problem("facilitators", f"{url} does not answer ({type(error).__name__})", mend)
                continue
            if answer.status_code >= 500:
                yield problem("facilitators", f"{url} answers {answer.status_code}", "ask its operator")
            else:
                yield ok("facilitators", f"{url} answers")
            for finding in clock(answer):
                yield finding


async def shared_limits(patient: Patient) -> AsyncIterator[Finding]:
    """The Redis that workers count in answers."""
    if patient.tollbooth.settings.rate_limit_storage.get_secret_value() == "memory":
        return
    if await patient.tollbooth.admission.rates.is_shared():
        yield ok("redis", "workers count together")
    else:
        mend = "start Redis, or mend TOLLBOOTH_RATE_LIMIT_STORAGE"
        yield problem("redis", "Redis does not answer: each worker counts for itself", mend)


def clock(answer: httpx.Response) -> Iterator[Finding]:
    """The clock of this machine, against that of another."""
    date = answer.headers.get("date")
    if date is None:
        return
    try:
        skew = abs(parsedate_to_datetime(date).timestamp() - time.time())
    except ValueError:
        return
    if skew > MOST_SKEW:
        detail = f"the clocks of this machine and of {answer.url.host} are {skew:.0f} s apart"
        yield problem("clock", detail, "have the clock set by NTP: offers and signatures expire by it")
    else:
        yield ok("clock", f"agrees with {answer.url.host}")


async def _offer(rail: Rail[Any], patient: Patient) -> int:
    # Offers may name the address that was called, and what the application says of itself.
    scope = {**_REQUEST, "app": patient.app}
    challenge = await rail.challenge(Quote(_PRICE, "/doctor", "doctor", connection=HTTPConnection(scope)), None)
    return sum(len(name) + len(value) + 4 for name, value in challenge.headers)


def _newest(connection: Connection) -> datetime | None:
    # By id, which grows with time: there is no index on time, and there may be millions of rows.
    return connection.execute(select(_transfer.c.created_at).order_by(_transfer.c.id.desc()).limit(1)).scalar()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    else:
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
