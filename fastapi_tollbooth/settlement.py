"""The ASGI layer around every request: it refuses unpaid uploads early, and settles the toll when the response starts.

Innermost of all middleware, so that what the application wraps around its answers wraps refusals too, and pure ASGI, so
that nothing is buffered. The dependency (`dependencies.py`) takes the toll; this layer sees how the request ends:

    response starts, status says success   capture, add the receipt's headers, let it go
    ... and the capture fails              withhold it, headers and body; answer with the refusal instead
    response starts with an error          void
    exception, cancellation, no response   void
"""

import logging
from typing import Any, Protocol

import anyio
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastapi_tollbooth.errors import Refusal, Unavailable
from fastapi_tollbooth.rails import Receipt
from fastapi_tollbooth.responses import answer
from fastapi_tollbooth.routes import gate_of
from fastapi_tollbooth.toll import Toll

logger = logging.getLogger("fastapi_tollbooth")

SCOPE_KEY = "fastapi_tollbooth"
CAPTURE_SECONDS = 60.0


class Engine(Protocol):
    """What this layer needs of a `Tollbooth`."""

    def succeeded(self, status: int) -> bool:
        """Whether a response with this status is what the caller pays for."""
        ...

    async def capture(self, toll: Toll) -> Receipt:
        """Earn the toll's money, or raise the refusal that the caller gets instead of the response."""
        ...

    async def void(self, toll: Toll, why: str) -> None:
        """Give the toll's money back."""
        ...


class Visit:
    """One request on its way through the service: the engine that serves it, and its toll once there is one."""

    __slots__ = ("engine", "toll")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.toll: Toll | None = None


class _Withheld(Exception):
    """The response was replaced by a refusal that has been sent."""


class SettlementLayer:
    """ASGI middleware; `Tollbooth.install` adds it."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self.app = app
        self.engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        visit = scope[SCOPE_KEY] = Visit(self.engine)
        gated = scope["type"] == "http"

        async def gate() -> Message:
            nonlocal gated
            if gated:
                gated = False
                priced = gate_of(scope)
                if priced is not None and not priced.price.reads_body and visit.toll is None:
                    await priced.refuse_early(HTTPConnection(scope))
            return await receive()

        async def settle(message: Message) -> None:
            toll = visit.toll
            if toll is not None and toll.is_open:
                kind = message["type"]
                if kind in ("http.response.start", "websocket.http.response.start"):
                    if kind == "http.response.start" and visit.engine.succeeded(message["status"]):
                        message = await self._capture(toll, visit.engine, message, scope, receive, send)
                    else:
                        await _void(visit, f"status {message['status']}")
                elif kind == "websocket.accept":
                    message = await self._capture(toll, visit.engine, message, scope, receive, send)
                elif kind == "websocket.close":
                    await _void(visit, "websocket refused")
            await send(message)

        try:
            await self.app(scope, gate, settle)
        except _Withheld:
            return
        except BaseException as error:
            await _void(visit, type(error).__name__)
            raise
        await _void(visit, "no response")

    async def _capture(
        self, toll: Toll, engine: Engine, message: Message, scope: Scope, receive: Receive, send: Send
    ) -> Message:
        try:
            # Whoever cancels the request now must not leave the money between two states.
            with anyio.CancelScope(shield=True), anyio.fail_after(CAPTURE_SECONDS):
                receipt = await engine.capture(toll)
        except TimeoutError:
            # Unknown is not failed: the toll stays pending for the sweeper, and nobody is asked to pay again.
            refusal: Refusal = Unavailable(
                "settlement_unknown",
                "The payment could not be settled in time. Do not pay again: send the same request.",
            )
        except Refusal as refused:
            refusal = refused
            with anyio.CancelScope(shield=True):
                await engine.void(toll, refusal.reason)
        else:
            return {**message, "headers": _with_receipt(message.get("headers", []), receipt)}
        response = await answer(HTTPConnection(scope), refusal)
        await response(scope, receive, send)
        raise _Withheld from refusal


async def _void(visit: Visit, why: str) -> None:
    if visit.toll is not None and visit.toll.is_open:
        with anyio.CancelScope(shield=True), anyio.move_on_after(CAPTURE_SECONDS):
            await visit.engine.void(visit.toll, why)


def _with_receipt(headers: Any, receipt: Receipt) -> list[tuple[bytes, bytes]]:
    lines = list(headers)
    lines += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in receipt.headers]
    if not any(name.lower() == b"cache-control" for name, _ in lines):
        lines.append((b"cache-control", b"private"))
    return lines
