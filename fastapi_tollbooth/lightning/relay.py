"""Questions and answers over a Nostr relay: one websocket, opened when first needed, on which answers find questions.

Needs the extra ``nwc``. Protocol: https://github.com/nostr-protocol/nips/blob/master/01.md. No event is ever logged.
"""

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.protocol import State

from fastapi_tollbooth.lightning import LightningUnavailable
from fastapi_tollbooth.lightning.nostr import Event, InvalidEvent, read_event

MAX_MESSAGE = 131_072
_INFO_KIND = 13_194
_ANSWER_KIND = 23_195

# The library logs what goes over the line at DEBUG, the address among it, which may hold a token.
_line_logger = logging.getLogger("fastapi_tollbooth.lightning.relay")
_line_logger.setLevel(logging.WARNING)


class Relay:
    """The first of several relays that can be reached.

    Args:
        addresses: ``wss://`` addresses, the preferred one first.
        context: What TLS connections have to satisfy; needed for ``wss://`` addresses alone.
        wallet: The public key, in hex, of the wallet that answers.
        service: The public key, in hex, of the one who asks.
        timeout: Seconds for opening a connection.
    """

    def __init__(
        self, addresses: Sequence[str], context: ssl.SSLContext | None, wallet: str, service: str, timeout: float
    ) -> None:
        self._addresses = addresses
        self._context = context
        self._wallet, self._service = wallet, service
        self._timeout = timeout
        self._opening: asyncio.Task[_Line] | None = None

    async def info(self) -> Event | None:
        """The wallet's description of itself, if the relay has it.

        Raises:
            LightningUnavailable: no relay can be reached.
        """
        return await asyncio.shield((await self._line()).info)

    async def ask(self, question: Event) -> Event:
        """Publish an event, and wait for the one that answers it. The caller bounds the wait.

        Raises:
            LightningUnavailable: no relay can be reached, it does not take the event, or it hangs up.
        """
        return await (await self._line()).ask(question)

    async def aclose(self) -> None:
        """Hang up."""
        opening, self._opening = self._opening, None
        if opening is not None and opening.get_loop() is asyncio.get_running_loop():
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, LightningUnavailable):
                await (await opening).aclose()

    async def _line(self) -> "_Line":
        opening = self._opening
        # Connections belong to the event loop that opened them.
        if opening is None or opening.get_loop() is not asyncio.get_running_loop() or _is_over(opening):
            opening = self._opening = asyncio.create_task(self._connect())
            opening.add_done_callback(_is_over)
        return await asyncio.shield(opening)

    async def _connect(self) -> "_Line":
        problem = "no address"
        for address in self._addresses:
            try:
                socket = await connect(
                    address,
                    ssl=self._context if address.startswith("wss:") else None,
                    open_timeout=self._timeout / len(self._addresses),
                    close_timeout=1,
                    max_size=MAX_MESSAGE,
                    logger=_line_logger,
                )
                line = _Line(socket, self._wallet)
                await line.subscribe(self._service)
            except (WebSocketException, OSError, TimeoutError, ValueError) as error:
                problem = type(error).__name__
            else:
                return line
        raise LightningUnavailable(f"no relay can be reached: {problem}")


class _Line:
    """An open connection to one relay."""

    def __init__(self, socket: ClientConnection, wallet: str) -> None:
        self._socket = socket
        self._wallet = wallet
        self._waiting: dict[str, asyncio.Future[Event]] = {}
        self.info: asyncio.Future[Event | None] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read())

    @property
    def is_over(self) -> bool:
        """Nothing more will be heard."""
        return self._reader.done() or self._socket.state is not State.OPEN

    async def subscribe(self, service: str) -> None:
        """Have the relay hand on what the wallet writes to the service, and the wallet's description."""
        answers = {"kinds": [_ANSWER_KIND], "authors": [self._wallet], "#p": [service]}
        info = {"kinds": [_INFO_KIND], "authors": [self._wallet], "limit": 1}
        await self._socket.send(json.dumps(["REQ", "answers", answers]))
        await self._socket.send(json.dumps(["REQ", "info", info]))

    async def ask(self, question: Event) -> Event:
        """As `Relay.ask`."""
        answer: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._waiting[question.id] = answer
        try:
            await self._socket.send(json.dumps(["EVENT", question.document()]))
            return await answer
        except (WebSocketException, OSError) as error:
            raise LightningUnavailable(f"the relay hung up: {type(error).__name__}") from None
        finally:
            del self._waiting[question.id]

    async def aclose(self) -> None:
        """Hang up, and have everybody who waits know."""
        await self._socket.close()
        await self._reader

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                with contextlib.suppress(InvalidEvent, LookupError, TypeError, ValueError, RecursionError):
                    if not self._hear(json.loads(message)):
                        await self._socket.close()
        except WebSocketException:
            pass
        finally:
            futures: list[asyncio.Future[Any]] = [self.info, *self._waiting.values()]
            for future in futures:
                if not future.done():
                    future.set_exception(LightningUnavailable("the relay hung up"))
            # Nobody may be waiting for this one.
            self.info.exception()

    def _hear(self, message: Any) -> bool:
        """Take a message; whether the line is still of use."""
        match message:
            case ["EVENT", "answers", document]:
                event = read_event(document)
                waiting = self._waiting.get(event.tag("e") or "")
                if waiting is not None and not waiting.done() and self._is_wallet_s(event, _ANSWER_KIND):
                    waiting.set_result(event)
            case ["EVENT", "info", document]:
                event = read_event(document)
                if self._is_wallet_s(event, _INFO_KIND) and not self.info.done():
                    self.info.set_result(event)
            case ["EOSE", "info"]:
                if not self.info.done():
                    self.info.set_result(None)
            case ["OK", str(question), False, *_]:
                waiting = self._waiting.get(question)
                if waiting is not None and not waiting.done():
                    waiting.set_exception(LightningUnavailable("the relay does not take the request"))
            case ["CLOSED", "answers", *_]:
                return False
        return True

    def _is_wallet_s(self, event: Event, kind: int) -> bool:
        return event.author == self._wallet and event.kind == kind


def _is_over(opening: "asyncio.Task[_Line]") -> bool:
    return opening.done() and (opening.cancelled() or opening.exception() is not None or opening.result().is_over)
