"""The ASGI layer around every request: it refuses unpaid uploads early, and settles the toll when the response starts.

Innermost of all middleware, so that what the application wraps around its answers wraps refusals too, and pure ASGI, so
that nothing is buffered. The dependency (`dependencies.py`) takes the toll; this layer sees how the request ends:

    response starts, status says success   capture, add the receipt's headers, let it go
    ... and the capture fails              withhold it, headers and body; answer with the refusal instead
    response starts with an error          void
    exception, cancellation, no response   void

A metered toll is only held when the response starts. What its handler has used is captured when the last byte is handed
over, or when the response breaks off, whoever broke it; and before the sweeper would take it for one that was left
behind, so that nobody spends what it holds elsewhere.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable

from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastapi_tollbooth.errors import BodyTooLarge, ConfigurationError, HookFailed, PricingFailed, Refusal
from fastapi_tollbooth.keeping import Keeping
from fastapi_tollbooth.responses import answer, ensure_answered, with_receipt
from fastapi_tollbooth.routes import gate_of
from fastapi_tollbooth.toll import State, Toll
from fastapi_tollbooth.visit import SCOPE_KEY, Engine, Visit

logger = logging.getLogger("fastapi_tollbooth")

POLICY_VIOLATION = 1008  # RFC 6455 §7.4.1
METERED = 0.8
"""How much of a toll's deadline a metered response may take."""

_DECISIVE = (
    "http.response.start",
    "websocket.http.response.start",
    "websocket.accept",
    "websocket.send",
    "websocket.close",
)


class Withheld(Exception):
    """Unwinds the application when its response was withheld and the refusal was sent in its place."""


class _Exchange:
    """The messages of one request. It knows the scope and the scope must not know it: a cycle would outlive both."""

    # On the class, because most requests never set them.
    is_settled = False
    _left: int | None = None
    _withheld = False
    _accepted = False
    _metering: asyncio.Task[None] | None = None

    def __init__(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        self._visit = visit
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_http = self._unread = scope["type"] == "http"

    async def receive(self) -> Message:
        """The application's ``receive``: its first call would read the body, so it is the last moment to refuse."""
        if self._unread:
            self._unread = False
            gate = gate_of(self._scope)
            if gate is not None and gate.price.reads_body:
                self._left = self._visit.engine.price_body_limit
            elif gate is not None and self._visit.toll is None and gate.decided_by_head:
                await gate.refuse_early(HTTPConnection(self._scope))
        message = await self._receive()
        if self._left is not None:
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                ensure_answered(self._scope)
                raise BodyTooLarge("body_too_large", "The price depends on the body, and this body is too large.")
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """The application's ``send``: settles an open toll before the first message that decides the request."""
        toll = self._visit.toll
        if self._withheld:
            return _nothing()  # an application that goes on after it was unwound
        if toll is None:
            is_plain = self._is_http and not self._visit.deferred
            return self._send(message) if is_plain else self._send_untolled(message)
        if toll.state is not State.AUTHORIZED:
            return self._send(message)
        if self._metering is not None:
            return self._send_metered(toll, message)
        if toll.keeping is not None and toll.keeping.is_due(message):
            return self._settle_kept(toll, toll.keeping, message)
        return self._settle(toll, message) if message["type"] in _DECISIVE else self._send(message)

    async def close(self) -> None:
        """Resolve what is still open: an exception, a cancellation, or an application that ended without a response.

        A websocket that a dependency accepted before the toll was taken has been served, however it ended.
        """
        toll = self._visit.toll
        if self._metering is not None:
            self._metering.cancel()
        if toll is None or not toll.is_open or self._withheld:
            return
        if self._accepted or self._metering is not None:
            await self._capture_served(toll)
        else:
            await self._visit.engine.void(toll)

    async def _capture_served(self, toll: Toll) -> None:
        try:
            await self._visit.engine.capture(toll)
        except Refusal as refusal:
            logger.error("toll %s of a served request was not captured: %s", toll.id, refusal.reason)

    async def _end_metering(self, toll: Toll) -> None:
        elapsed = time.monotonic() - self._visit.began
        await asyncio.sleep(max(0.0, METERED * self._visit.engine.toll_deadline - elapsed))
        logger.error("toll %s is captured before its response has ended: see TOLLBOOTH_TOLL_DEADLINE", toll.id)
        await self._capture_served(toll)

    async def _send_metered(self, toll: Toll, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            if toll.cost is None:
                logger.warning("%s is metered and its handler did not call toll.use: nothing was charged", toll.route)
            await self._capture_served(toll)
        await self._send(message)

    async def _send_untolled(self, message: Message) -> None:
        if self._accepted and message["type"].startswith("websocket.http.response"):
            # Too late for a denial: the websocket was accepted before it was priced.
            if message["type"] == "websocket.http.response.start":
                await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": "payment_required"})
        elif self._visit.deferred and message["type"] in _DECISIVE and self._is_success(message):
            logger.error("a request reached its handler and no price took its toll; the answer is withheld")
            await self._withhold(message, PricingFailed("toll_not_taken", "This request was not priced."))
        else:
            self._accepted = self._accepted or message["type"] == "websocket.accept"
            await self._send(message)

    async def _settle(self, toll: Toll, message: Message) -> None:
        engine, is_start = self._visit.engine, message["type"] in ("http.response.start", "websocket.accept")
        # What a websocket says first may come after its start: a dependency accepted it before the toll was taken.
        metering = toll.metered and message["type"] != "websocket.close"
        try:
            if not self._is_success(message) or (engine.looks_at_responses and await self._is_waived(toll, message)):
                await engine.void(toll)
                await self._send(message)
                return
            receipt = await (engine.hold(toll) if metering else engine.capture(toll))
        except Refusal as refusal:
            if isinstance(refusal, HookFailed):
                await engine.void(toll)
            await self._withhold(message, refusal)
            return
        if metering:
            self._metering = asyncio.get_running_loop().create_task(self._end_metering(toll))
        else:
            self.is_settled = True
        if is_start:
            message = {**message, "headers": with_receipt(message.get("headers", ()), receipt)}
        await self._send(message)

    async def _settle_kept(self, toll: Toll, keeping: Keeping, message: Message) -> None:
        head = keeping.head_before(message)
        if head is not None:
            await self._settle(toll, head)
            await self.send(message)

    async def _is_waived(self, toll: Toll, message: Message) -> bool:
        return await self._visit.engine.waives(toll, message.get("status", 101), list(message.get("headers", ())))

    async def _withhold(self, message: Message, refusal: Refusal) -> None:
        self._withheld = True
        self._visit.engine.failed(refusal, self._visit.toll)
        if self._accepted:
            await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal.reason})
        else:
            response = await answer(HTTPConnection(self._scope), refusal)
            await response(self._scope, self._receive, self._send)
        raise Withheld from refusal

    def _is_success(self, message: Message) -> bool:
        match message["type"]:
            case "http.response.start":
                return self._visit.engine.succeeded(message["status"])
            case "websocket.accept" | "websocket.send":
                return True
            case "websocket.close":
                # One that a dependency accepted before the toll was taken has been served by now.
                return self._accepted
            case _:
                return False


def require_installable(app: object) -> None:
    """Make sure that the layer can be put around an application, and that there is none.

    Raises:
        ConfigurationError: it is no FastAPI application, has started, or has a tollbooth.
    """
    if not isinstance(app, FastAPI):
        raise ConfigurationError(
            "not_an_application",
            f"a tollbooth is installed on a FastAPI application, not on {type(app).__name__}: install it on the "
            "application, and the prices of its routers and of what is mounted in it are served, too",
        )
    if app.middleware_stack is not None:
        raise ConfigurationError(
            "already_started",
            "this application has started, and nothing can be put around it any more: call tollbooth.install(app) "
            "where the application is made, not in a lifespan, a startup event or a route",
        )
    if hasattr(app.state, "tollbooth"):
        raise ConfigurationError(
            "already_installed",
            "this application has a tollbooth already: install one, once, and reach it as app.state.tollbooth",
        )


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
        exchange = _Exchange(visit, scope, receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except Withheld:
            pass
        except Exception as error:
            visit.engine.failed(error, visit.toll)
            raise
        finally:
            if visit.toll is not None and not exchange.is_settled:
                await exchange.close()


async def _nothing() -> None:
    return None
