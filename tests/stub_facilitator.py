"""A facilitator on loopback that tests tell what to do, and what it saw. Its chain is a dictionary.

It speaks the facilitator's three calls and, at ``/rpc``, the four calls of a node that reconciliation makes.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]
"""A status and a JSON document; bytes are sent as they are, None hangs up without an answer."""

TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
USED = "0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"


class StubFacilitator:
    """Takes every well-formed payment once, unless it is told otherwise.

    Attributes:
        verify_answer: What /verify answers instead of its own.
        settle_answer: What /settle answers instead of its own; nothing is transferred then.
        lose_settle_answer: Transfer, and hang up.
        delay: Seconds that every settlement takes.
        transfers: What was transferred, by (payer, nonce): the transaction's number.
        calls: The paths that were called, with their bodies.
    """

    def __init__(self) -> None:
        self.verify_answer: Answer | None = None
        self.settle_answer: Answer | None = None
        self.lose_settle_answer = False
        self.delay = 0.0
        self.verify_delay = 0.0
        self.redirect: str | None = None
        self.transfers: dict[tuple[str, str], dict[str, Any]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.kinds: list[dict[str, Any]] = []
        self._guard = threading.Lock()
        self.url = ""

    def count(self, path: str) -> int:
        """How often a path was called."""
        return sum(1 for called, _ in self.calls if called == path)

    def answer(self, path: str, body: Any) -> Answer | None:
        """One call."""
        with self._guard:
            self.calls.append((path, body))
        if path == "/supported":
            return 200, {"kinds": self.kinds, "extensions": [], "signers": {}}
        if path == "/rpc":
            return 200, {"jsonrpc": "2.0", "id": body["id"], "result": self._rpc(body["method"], body["params"])}
        if path == "/verify":
            time.sleep(self.verify_delay)
            return self.verify_answer or self._verify(body)
        time.sleep(self.delay)
        return self.settle_answer or self._settle(body)

    def _verify(self, body: Any) -> Answer:
        signed = body["paymentPayload"]["payload"]["authorization"]
        if (signed["from"], signed["nonce"]) in self.transfers:
            return 200, {"isValid": False, "invalidReason": "invalid_exact_evm_nonce_already_used"}
        return 200, {"isValid": True, "payer": signed["from"]}

    def _settle(self, body: Any) -> Answer | None:
        signed, wanted = body["paymentPayload"]["payload"]["authorization"], body["paymentRequirements"]
        key = signed["from"], signed["nonce"]
        network = wanted["network"]
        with self._guard:
            if key in self.transfers:
                failure = {"success": False, "errorReason": "invalid_exact_evm_nonce_already_used", "transaction": ""}
                return 200, failure | {"network": network}
            number = len(self.transfers) + 1
            self.transfers[key] = {
                "hash": f"0x{number:064x}",
                "token": wanted["asset"],
                "to": signed["to"],
                "value": int(signed["value"]),
            }
        if self.lose_settle_answer:
            return None
        transaction = self.transfers[key]["hash"]
        return 200, {"success": True, "transaction": transaction, "network": network, "payer": signed["from"]}

    def _rpc(self, method: str, params: list[Any]) -> Any:
        if method == "eth_blockNumber":
            return "0x10"
        if method == "eth_call":
            data = params[0]["data"]
            return f"0x{int(('0x' + data[34:74], '0x' + data[74:138]) in self.transfers):064x}"
        if method == "eth_getLogs":
            _, payer, nonce = params[0]["topics"]
            found = self.transfers.get(("0x" + payer[26:], nonce))
            return [] if found is None else [{"transactionHash": found["hash"]}]
        for (payer, nonce), made in self.transfers.items():
            if made["hash"] == params[0]:
                return {"logs": logs_of(made["token"], payer, nonce, made["to"], made["value"])}
        return None


def logs_of(token: str, payer: str, nonce: str, to: str, value: int) -> list[dict[str, Any]]:
    """The log entries of one transfer with authorization."""
    word = "0x" + "0" * 24
    return [
        {"address": token, "topics": [USED, word + payer[2:], nonce], "data": "0x"},
        {"address": token, "topics": [TRANSFER, word + payer[2:], word + to[2:]], "data": hex(value)},
    ]


@contextmanager
def stub_facilitator() -> Iterator[StubFacilitator]:
    """A running one."""
    stub = StubFacilitator()
    with serving(stub.answer, stub) as url:
        stub.url = url
        yield stub


@contextmanager
def serving(answer: Callable[[str, Any], Answer | None], stub: StubFacilitator | None = None) -> Iterator[str]:
    """A loopback server of JSON; its base URL."""

    class Call(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            if stub is not None:
                stub.headers.append(dict(self.headers))
                if stub.redirect is not None:
                    self.send_response(308)
                    self.send_header("location", stub.redirect + self.path)
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
            given = answer(self.path, body)
            if given is None:
                self.close_connection = True
                return
            status, document = given
            text = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Call)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
