"""Stand-ins for Lightning nodes: real servers on this machine that answer in the shapes that their vendors document.

Behind each is a `Book` of real invoices, signed and with preimages that fit, and a `Fault` that a test can set.
"""

import asyncio
import gzip
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fastapi_tollbooth.lightning import bolt11

KEY = "c0ffee" * 8
PRIVATE_KEY = 0xE126F68F7EAFCC8B74F54D269FE206BE715000F94DAC067D1C04A8CA3B2DB734

Fault = Literal[
    "dropped", "error", "busy", "html", "list", "null", "empty", "huge", "redirect", "slow", "nested", "zipped"
]  # fmt: skip
FAULTS: tuple[Fault, ...] = get_args(Fault)


@dataclass
class Written:
    """An invoice in a node's books."""

    text: str
    preimage: bytes
    amount_msat: int
    description: str
    created_at: int
    expiry: int
    external_id: str | None
    paid_at: float | None = None
    canceled: bool = False

    @property
    def payment_hash(self) -> bytes:
        """The hash that the payer gets the preimage of."""
        return hashlib.sha256(self.preimage).digest()

    @property
    def expired(self) -> bool:
        """Nobody can pay it any more."""
        return self.paid_at is None and self.created_at + self.expiry <= time.time()


@dataclass
class Book:
    """What a node knows. ``alter`` changes what invoices say, for tests of what must not be offered."""

    invoices: dict[bytes, Written] = field(default_factory=dict)
    alter: dict[str, Any] = field(default_factory=dict)
    replace_text: str | None = None
    fault: Fault | None = None
    calls: list[str] = field(default_factory=list)
    keys_seen: set[str] = field(default_factory=set)

    def write(self, amount_msat: int, description: str, expiry: int, external_id: str | None = None) -> Written:
        """Make an invoice."""
        preimage = secrets.token_bytes(32)
        said: dict[str, Any] = {
            "network": "bcrt",
            "amount_msat": amount_msat,
            "payment_hash": hashlib.sha256(preimage).digest(),
            "payment_secret": secrets.token_bytes(32),
            "description": description,
            "created_at": int(time.time()),
            "expiry_seconds": expiry,
            "private_key": PRIVATE_KEY,
        }
        text = self.replace_text or bolt11.encode(**said | self.alter)
        written = Written(text, preimage, amount_msat, description, int(time.time()), expiry, external_id)
        self.invoices[written.payment_hash] = written
        return written

    def pay(self, invoice: str) -> bytes:
        """Pay an invoice, as somebody's wallet would; the preimage."""
        written = self.invoices[bolt11.decode(invoice).payment_hash]
        assert written.paid_at is None
        assert not written.expired
        written.paid_at = time.time()
        return written.preimage

    def expire(self, payment_hash: bytes) -> None:
        """Have time pass until an invoice has expired."""
        self.invoices[payment_hash].created_at -= self.invoices[payment_hash].expiry + 1

    def get(self, payment_hash: str) -> Written | None:
        """The invoice of a hash in hex."""
        return self.invoices.get(bytes.fromhex(payment_hash))


class Faulty:
    """Notes every call, and answers as the book's fault wants."""

    def __init__(self, app: ASGIApp, book: Book) -> None:
        self._app, self._book = app, book

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._book.calls.append(f"{scope['method']} {scope['path']}")
        if self._book.fault is None:
            await self._app(scope, receive, send)
            return
        if self._book.fault == "dropped":
            # uvicorn hangs up on whoever was promised more than the application sends.
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"99")]})
            return
        if self._book.fault == "slow":
            await asyncio.sleep(0.5)
        await _answer(self._book.fault, Request(scope))(scope, receive, send)


def _answer(fault: Fault, request: Request) -> Response:
    answers: dict[str, Callable[[], Response]] = {
        "error": lambda: JSONResponse({"error": "no", "detail": "no", "preimage": "5" * 64}, 500),
        "busy": lambda: PlainTextResponse("too many", 429),
        "html": lambda: Response("<html>Sign in</html>", media_type="text/html"),
        "list": lambda: JSONResponse([1, 2, 3]),
        "null": lambda: JSONResponse(None),
        "empty": lambda: JSONResponse({}),
        "huge": lambda: JSONResponse({"filler": "x" * 2_000_000}),
        "redirect": lambda: RedirectResponse(str(request.base_url) + "elsewhere", 307),
        "slow": lambda: JSONResponse({}),
        "zipped": lambda: Response(_bomb(), headers={"Content-Encoding": "gzip"}),
        "nested": lambda: Response(b"[" * 60_000, media_type="application/json"),
    }
    return answers[fault]()


@cache
def _bomb() -> bytes:
    return gzip.compress(b'{"filler": "' + b"x" * 20_000_000 + b'"}', compresslevel=1)


@contextmanager
def serving(app: Starlette, book: Book, **options: Any) -> Iterator[int]:
    """The port of a server in a thread of its own."""
    config = uvicorn.Config(
        Faulty(app, book), host="127.0.0.1", port=0, log_level="critical", lifespan="off", **options
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.005)
    assert server.started
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)
