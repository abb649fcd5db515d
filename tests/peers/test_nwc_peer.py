"""A third party's wallet side of Nostr Wallet Connect answers the service: the conformance suite."""

import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import pytest

from fastapi_tollbooth.lightning import InvoiceState, LightningBackend
from fastapi_tollbooth.lightning.checking import request_invoice
from fastapi_tollbooth.lightning.nostr import Keys
from fastapi_tollbooth.lightning.nwc import NwcNode
from fastapi_tollbooth.settings import LightningSettings
from tests.nodes import KEY, Book, serving
from tests.nodes.conformance import *  # noqa: F403
from tests.nodes.conformance import Setup
from tests.nodes.nwc import SERVICE_SECRET, Relay, connection_string, relaying
from tests.nodes.vendors import phoenixd
from tests.peers.conftest import CLIENTS, NodeFolderOf

pytestmark = pytest.mark.peer

WALLET_SECRET = b"\x07" * 32


class Running(NamedTuple):
    """A wallet that has said it is ready, on a relay, over a node's book."""

    address: str
    relay: Relay
    book: Book


@pytest.fixture(scope="module")
def running(node_folder_of: NodeFolderOf) -> Iterator[Running]:
    folder = node_folder_of("@getalby/sdk@8.0.3")
    driver = shutil.copy(CLIENTS / "alby_wallet.mjs", folder)
    book, relay = Book(), Relay()
    with serving(phoenixd(book), book) as port, relaying(relay) as address:
        secrets = [WALLET_SECRET.hex(), Keys(SERVICE_SECRET).public.hex()]
        # Node.js 20 has websockets, but only when asked.
        command = [shutil.which("node") or "node", "--experimental-websocket", driver, address, *secrets]
        process = subprocess.Popen(
            [*command, f"http://127.0.0.1:{port}", KEY], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        watchdog = threading.Timer(30, process.kill)
        watchdog.start()
        try:
            if process.stdout.readline() != b"ready\n":
                pytest.fail(process.stderr.read().decode(), pytrace=False)
            watchdog.cancel()
            yield Running(address, relay, book)
        finally:
            watchdog.cancel()
            process.kill()
            process.wait(timeout=10)
            process.stdout.close()
            process.stderr.close()


@pytest.fixture
async def setup(running: Running) -> AsyncIterator[Setup]:
    def with_key(key: str) -> LightningBackend:
        return node_of(key.encode()[:32], timeout=1)

    def node_of(secret: bytes, **values: Any) -> NwcNode:
        return NwcNode(LightningSettings(**{"url": connection_string(running.address, secret), **values}))

    async def pay(invoice: str) -> None:
        running.book.pay(invoice)

    node = node_of(SERVICE_SECRET)
    yield Setup(node, 1_000, pay, with_key)
    await node.aclose()


@pytest.mark.anyio
async def test_the_older_encryption_is_understood_by_both_sides(setup: Setup, running: Running) -> None:
    info = running.relay.stored.copy()
    running.relay.stored.clear()
    try:
        invoice = await request_invoice(setup.node, 21_000, "x", 600)
        assert (await setup.node.lookup(invoice.payment_hash)).state is InvoiceState.PENDING
    finally:
        running.relay.stored.extend(info)
    asked = [event for event in running.relay.heard if event["kind"] == 23_194]
    assert "?iv=" in asked[-1]["content"]
