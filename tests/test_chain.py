"""What the chain knows: a used nonce is not a payment, unless the transfer to us stands right behind its use."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from fastapi_tollbooth.rails.x402 import chain
from fastapi_tollbooth.rails.x402.chain import ChainUnavailable, Finding, Transferred, look_up
from tests.stub_facilitator import logs_of, serving
from tests.x402_payer import PAY_TO, PAYER

pytestmark = pytest.mark.anyio

TOKEN, NONCE = "0x" + "12" * 20, "0x" + "cd" * 32
WANTED = Transferred(TOKEN, PAYER, NONCE, PAY_TO, 10_000)
PAID = logs_of(TOKEN, PAYER, NONCE, PAY_TO, 10_000)
HASH = "0x" + "1" * 64


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as opened:
        yield opened


class Node:
    """A node with one transaction."""

    def __init__(self, logs: list[dict[str, Any]] | None, block: int = 0x10, head: int = 0x10) -> None:
        self.logs, self.block, self.head = logs, block, head
        self.queries = 0

    def answer(self, _path: str, body: Any) -> tuple[int, Any]:
        return 200, {"jsonrpc": "2.0", "id": 1, "result": self.result(body["method"], body["params"])}

    def result(self, method: str, params: list[Any]) -> Any:
        match method:
            case "eth_call":
                return f"0x{int(self.logs is not None):064x}"
            case "eth_blockNumber":
                return hex(self.head)
            case "eth_getLogs":
                self.queries += 1
                between = int(params[0]["fromBlock"], 16) <= self.block <= int(params[0]["toBlock"], 16)
                return [{"transactionHash": HASH}] if between else []
            case _:
                return {"logs": self.logs}


async def find(client: httpx.AsyncClient, node: Node) -> Finding:
    with serving(node.answer) as url:
        return await look_up(client, url, WANTED)


async def test_an_authorization_that_was_not_used(client: httpx.AsyncClient) -> None:
    assert await find(client, Node(None)) == Finding(used=False)


async def test_a_payment_is_found_with_its_transaction(client: httpx.AsyncClient) -> None:
    assert await find(client, Node(PAID)) == Finding(used=True, transaction=HASH)


async def test_an_older_payment_is_found_a_few_queries_back(client: httpx.AsyncClient) -> None:
    node = Node(PAID, block=1, head=chain.BLOCKS * 3)
    assert (await find(client, node)).transaction == HASH
    assert node.queries == 3


async def test_beyond_what_is_searched_nothing_is_known(client: httpx.AsyncClient) -> None:
    node = Node(PAID, block=1, head=10**9)
    assert await find(client, node) == Finding(used=True, conclusive=False)
    assert node.queries == chain.QUERIES


@pytest.mark.parametrize(
    "logs",
    [
        PAID[:1],
        logs_of(TOKEN, PAYER, NONCE, "0x" + "77" * 20, 10_000),
        logs_of(TOKEN, PAYER, NONCE, PAY_TO, 9_999),
        [PAID[0], logs_of("0x" + "99" * 20, PAYER, NONCE, PAY_TO, 10_000)[1]],
    ],
    ids=["cancelled", "to somebody else", "another amount", "another token"],
)
async def test_a_used_nonce_without_our_transfer_is_no_payment(
    client: httpx.AsyncClient, logs: list[dict[str, Any]]
) -> None:
    assert await find(client, Node(logs)) == Finding(used=True)


async def test_another_payment_in_the_same_transaction_does_not_count_twice(client: httpx.AsyncClient) -> None:
    other = logs_of(TOKEN, PAYER, "0x" + "ee" * 32, PAY_TO, 10_000)
    mine = logs_of(TOKEN, PAYER, NONCE, PAYER, 10_000)
    assert await find(client, Node(mine + other)) == Finding(used=True, conclusive=False)


@pytest.mark.parametrize(
    "answer",
    [(200, {"error": {"code": -32000}}), (200, {"result": "yes"}), (500, b"oops"), (200, []), (200, {"result": None})],
)
async def test_a_node_that_does_not_answer_is_unavailable(client: httpx.AsyncClient, answer: tuple[int, Any]) -> None:
    with serving(lambda _path, _body: answer) as url, pytest.raises(ChainUnavailable):
        await look_up(client, url, WANTED)
    with pytest.raises(ChainUnavailable):
        await look_up(client, "http://127.0.0.1:9", WANTED)
