"""A small Nostr relay in a thread, and a wallet on it that speaks Nostr Wallet Connect.

Relay: https://github.com/nostr-protocol/nips/blob/master/01.md, and 47.md for the wallet: info event 13194, requests
23194, answers 23195, errors as ``{"code", "message"}``, amounts in msat, times in Unix seconds.
"""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from fastapi_tollbooth.lightning.nostr import Keys, decrypt, encrypt, encrypt_04, read_event
from tests.nodes import Book, Written

WALLET = Keys(b"\x07" * 32)
SERVICE_SECRET = b"\x09" * 32


@dataclass
class Relay:
    """Keeps what is replaceable, and hands on everything to whoever subscribed to it."""

    stored: list[dict[str, Any]] = field(default_factory=list)
    heard: list[dict[str, Any]] = field(default_factory=list)
    subscriptions: dict[ServerConnection, dict[str, dict[str, Any]]] = field(default_factory=dict)
    on_event: Callable[[dict[str, Any]], list[dict[str, Any]]] = lambda _: []
    refuse: bool = False
    careless: bool = False
    garbage: list[str] = field(default_factory=list)

    def serve_one(self, socket: ServerConnection) -> None:
        """Talk to one client."""
        self.subscriptions[socket] = {}
        try:
            for message in socket:
                for text in self.garbage:
                    socket.send(text)
                self._hear(socket, json.loads(message))
        except ConnectionClosed:
            pass
        finally:
            del self.subscriptions[socket]

    def hang_up(self) -> None:
        """Leave everybody."""
        for socket in list(self.subscriptions):
            socket.close()

    def _hear(self, socket: ServerConnection, message: list[Any]) -> None:
        match message:
            case ["REQ", str(name), dict(wanted)]:
                self.subscriptions[socket][name] = wanted
                for event in self.stored:
                    if _matches(event, wanted):
                        socket.send(json.dumps(["EVENT", name, event]))
                socket.send(json.dumps(["EOSE", name]))
            case ["CLOSE", str(name)]:
                self.subscriptions[socket].pop(name, None)
            case ["EVENT", dict(event)]:
                socket.send(json.dumps(["OK", event["id"], not self.refuse, "blocked: no" if self.refuse else ""]))
                if not self.refuse:
                    self.publish(event)

    def publish(self, event: dict[str, Any]) -> None:
        """Hand on an event, and what follows from it."""
        self.heard.append(event)
        if event["kind"] == 13_194:
            self.stored.append(event)
        for socket, subscriptions in list(self.subscriptions.items()):
            for name, wanted in list(subscriptions.items()):
                if self.careless or _matches(event, wanted):
                    socket.send(json.dumps(["EVENT", name, event]))
        for follower in self.on_event(event):
            self.publish(follower)


def _matches(event: dict[str, Any], wanted: dict[str, Any]) -> bool:
    tags = [(tag[0], tag[1]) for tag in event["tags"] if len(tag) > 1]
    return all(
        any((name[1:], value) in tags for value in values)
        if name.startswith("#")
        else event["kind"] in values
        if name == "kinds"
        else event["pubkey"] in values
        if name == "authors"
        else event["id"] in values
        if name == "ids"
        else event["created_at"] >= values
        if name == "since"
        else True
        for name, values in wanted.items()
    )


@contextmanager
def relaying(relay: Relay, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a relay that runs in a thread of its own."""
    server: Server = serve(relay.serve_one, "127.0.0.1", 0, ssl=context)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{'ws' if context is None else 'wss'}://127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        relay.hang_up()
        server.shutdown()
        thread.join(timeout=10)


@dataclass
class Wallet:
    """Answers requests out of a book. ``encryption`` is what its info event says; None for an old wallet."""

    book: Book
    encryption: str | None = "nip44_v2 nip04"
    states: bool = True
    error: str | None = None
    silent: bool = False
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda document: document
    signer: Keys = WALLET
    answers: Callable[[Any], Any] = lambda answer: answer

    def info(self) -> dict[str, Any]:
        """The event that describes it."""
        tags = [] if self.encryption is None else [["encryption", self.encryption]]
        return WALLET.sign(13_194, tags, "make_invoice lookup_invoice get_info", int(time.time())).document()

    def respond(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        """The answers to an event."""
        if document["kind"] != 23_194 or self.silent:
            return []
        event = read_event(document)
        self.book.calls.append(event.tag("encryption") or "nip04")
        shared = WALLET.shared(bytes.fromhex(event.author))
        request = json.loads(decrypt(shared, event.content))
        answer = self.answers(self._answer(request["method"], request["params"]))
        text = answer if isinstance(answer, str) else json.dumps(answer)
        content = (encrypt if event.tag("encryption") == "nip44_v2" else encrypt_04)(shared, text)
        tags = [["p", event.author], ["e", event.id]]
        return [self.change(self.signer.sign(23_195, tags, content, int(time.time())).document())]

    def _answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        def failed(code: str) -> dict[str, Any]:
            return {"result_type": method, "error": {"code": code, "message": "no"}, "result": None}

        if self.error:
            return failed(self.error)
        if method == "make_invoice":
            external_id = params.get("metadata", {}).get("external_id")
            written = self.book.write(params["amount"], params["description"], params["expiry"], external_id)
            return {"result_type": method, "error": None, "result": self._shape(written)}
        if method == "lookup_invoice":
            found = self.book.get(params["payment_hash"])
            if found is None:
                return failed("NOT_FOUND")
            return {"result_type": method, "result": self._shape(found)}
        return failed("NOT_IMPLEMENTED")

    def _shape(self, written: Written) -> dict[str, Any]:
        paid = written.paid_at is not None
        shape: dict[str, Any] = {
            "type": "incoming",
            "invoice": written.text,
            "description": written.description,
            # Some wallets tell it of unpaid invoices too.
            "preimage": written.preimage.hex(),
            "payment_hash": written.payment_hash.hex(),
            "amount": written.amount_msat,
            "fees_paid": 0,
            "created_at": written.created_at,
            "expires_at": written.created_at + written.expiry,
            "metadata": {},
        }
        if self.states:
            shape["state"] = "settled" if paid else "expired" if written.expired else "pending"
        if written.paid_at is not None:
            shape["settled_at"] = int(written.paid_at)
        return shape


def connection_string(address: str, secret: bytes = SERVICE_SECRET, wallet: Keys = WALLET) -> str:
    """What a wallet shows to connect a service."""
    return f"nostr+walletconnect://{wallet.public.hex()}?relay={quote(address, safe='')}&secret={secret.hex()}"


__all__ = ["SERVICE_SECRET", "WALLET", "Relay", "Wallet", "connection_string", "relaying"]
