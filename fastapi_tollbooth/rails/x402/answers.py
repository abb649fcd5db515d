"""Answers that are given again: to the same payment, for the same request, under the identifier that its payer chose.

A payment that has an identifier is taken together with it. Its answer is sealed and kept before the money moves, or
before it is charged, so that a crash at any point leaves either no payment or one whose answer is there. It is given
again once the ledger says that the payment was spent, or by charging what is owed.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from starlette.requests import HTTPConnection, Request

from fastapi_tollbooth.errors import BodyTooLarge, Conflict, Forbidden
from fastapi_tollbooth.ledger import answers
from fastapi_tollbooth.ledger.answers import Entry, Found
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.rails.x402.identifiers import Named, key_of, request_digest, secret_of
from fastapi_tollbooth.rails.x402.order import Held, Order
from fastapi_tollbooth.rails.x402.sealing import Answer, seal, unseal
from fastapi_tollbooth.rails.x402.settling import Settler
from fastapi_tollbooth.toll import Toll

MAX_REQUEST = 1_048_576
"""How large the body of a request may be that is compared with another one."""

_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class Answers:
    """Takes payments that have an identifier, and keeps the answers to their requests.

    Args:
        ledger: Where they are kept.
        settler: Takes the payments.
        lasts: How long an answer is kept.
        deadline: How long a request may take.
    """

    def __init__(self, ledger: Ledger, settler: Settler, lasts: timedelta, deadline: timedelta) -> None:
        self._ledger = ledger
        self._settler = settler
        self._lasts = lasts
        self._deadline = deadline

    async def hold(self, order: Order) -> Held | Answer:
        """Take a payment as `Settler.hold` does, or find the answer that it bought.

        Raises:
            Conflict: its identifier belongs to another payment or request, or another request works for it.
            Forbidden, Unavailable, CredentialRefused: as `Settler.hold`.
        """
        if order.named is None:
            return await self._settler.hold(order)
        entry, until = _entry(order, order.named), datetime.now(UTC) + self._lasts + self._deadline
        known = await self._ledger.execute(partial(answers.take, entry=entry, until=until))
        if known is not None and not _is_same(known, order, entry):
            raise _in_use()
        answer = _opened(known, order, entry, order.named)
        try:
            # What was answered costs what it did then, whatever the price is by now.
            held = await self._settler.hold(order if answer is None else replace(order, price=answer.charge))
        except Forbidden as refused:
            # The first copy of this request may have been served since its identifier was looked up.
            known = known or await self._ledger.read(partial(answers.find, key=entry.key))
            answer = _opened(known, order, entry, order.named)
            if refused.reason != "already_spent" or answer is None:
                raise
            return answer
        if answer is not None and held.settled:
            await self._settler.deliver(held, answer.charge)
            return answer
        await self._require(entry, held)
        return held

    async def keep(self, held: Held, toll: Toll) -> None:
        """Keep the response of a toll that is about to be captured, if it can be.

        Raises:
            Unavailable: the database did not answer.
        """
        named, response = held.order.named, toll.keeping and toll.keeping.response
        if named is not None and response:
            sealed = seal(Answer(response, toll.charge), named.secret)
            entry, until = _entry(held.order, named), datetime.now(UTC) + self._lasts
            keep = partial(answers.keep, entry=entry, toll=held.toll, sealed=sealed, until=until)
            await self._ledger.execute(keep, ends=True)

    async def _require(self, entry: Entry, held: Held) -> None:
        try:
            if await self._ledger.execute(partial(answers.has, entry=entry)):
                return
        except BaseException:
            self._settler.abandon(held)
            raise
        await self._settler.let_go(held)
        raise _in_use()


async def named(connection: HTTPConnection, url: str, payer: str, identifier: str, sent: bytes) -> Named | None:
    """The request as its payer named it; None where it cannot be compared with another one.

    Args:
        connection: The request. Its body is read, and stays there for the handler.
        url: Where it went, without the query; a long path may be cut off.
        payer: Who pays.
        identifier: The name.
        sent: The header that the payment came in.
    """
    if not isinstance(connection, Request):
        return None
    body = await _body_of(connection)
    if body is None:
        return None
    scope, query = connection.scope, connection.scope.get("query_string", b"").decode("latin-1")
    head = (connection.method, url, str(scope["path"]), query, connection.headers.get("content-type", ""))
    return Named(key_of(payer, identifier), request_digest(head, body), secret_of(sent))


async def _body_of(request: Request) -> bytes | None:
    length = request.headers.get("content-length", "0")
    if "transfer-encoding" in request.headers or not length.isdecimal() or int(length) > MAX_REQUEST:
        return None
    # Somebody may have read it and not have kept it. Of a form its fields are there, where it was read as one.
    with contextlib.suppress(RuntimeError):
        return await _read(request)
    if request.headers.get("content-type", "").lower().startswith(_FORMS):
        with contextlib.suppress(RuntimeError):
            return b"".join([field async for field in _fields(request)])
    return None


async def _read(request: Request) -> bytes:
    # As `Request.body`, but bounded: HTTP/2 sends bodies without a word of their length.
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST:
            raise BodyTooLarge("body_too_large", "With an identifier, a body this large must come with its length.")
    request._body = bytes(body)
    return request._body


async def _fields(request: Request) -> AsyncIterator[bytes]:
    for name, value in (await request.form()).multi_items():
        if isinstance(value, str):
            yield request_digest((name,), value.encode()).encode()
            continue
        await value.seek(0)
        head = (name, value.filename or "", value.content_type or "")
        yield request_digest(head, await value.read()).encode()
        await value.seek(0)


def _entry(order: Order, named: Named) -> Entry:
    return Entry(named.key, order.payment.spend_key, named.request)


def _is_same(known: Found, order: Order, entry: Entry) -> bool:
    return (known.spend_key, known.request, known.digest) == (entry.spend_key, entry.request, order.digest)


def _opened(known: Found | None, order: Order, entry: Entry, named: Named) -> Answer | None:
    if known is None or known.sealed is None or not _is_same(known, order, entry):
        return None
    return unseal(known.sealed, named.secret)


def _in_use() -> Conflict:
    detail = "This identifier belongs to another request or payment. Send those again as they were, or take a new one."
    return Conflict("identifier_in_use", detail, retry_after=None)
