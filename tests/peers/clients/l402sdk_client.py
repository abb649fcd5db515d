"""pip ``l402sdk``, written in Rust: has no wallet hook, but pays through the REST interface of the user's own node.

So the wallet here answers as Core Lightning's ``pay`` does. It is a process of its own, because the client does not let
go of the interpreter while it waits.
"""

import json
import multiprocessing
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from l402 import L402Client  # type: ignore[import-not-found]

from tests.peers.clients.driver import pay, play


class Node(BaseHTTPRequestHandler):
    """``POST /v1/pay`` of Core Lightning's REST interface."""

    def do_POST(self) -> None:
        """Pay at the development node."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        paid = pay(asked["bolt11"])
        body = json.dumps(
            {
                "status": "complete",
                "payment_hash": paid["payment_hash"],
                "payment_preimage": paid["preimage"],
                "amount_msat": 1_000,
                "amount_sent_msat": 1_000,
            }
        ).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


node = HTTPServer(("127.0.0.1", 0), Node)
# A daemon, so that it ends with this process.
multiprocessing.get_context("fork").Process(target=node.serve_forever, daemon=True).start()
client = L402Client.with_cln_rest(f"http://127.0.0.1:{node.server_port}", "rune")


def call(method: str, url: str, body: Any) -> tuple[int, Any]:
    """One request."""
    response = client.get(url) if method == "GET" else client.post(url, json.dumps(body))
    return response.status, response.json()


play(call, payments=lambda: len(client.receipts()))
