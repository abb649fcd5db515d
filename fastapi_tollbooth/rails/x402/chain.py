"""What the chain itself knows of a payment: plain JSON-RPC, for settlements whose answer was lost.

That a nonce is used does not mean that we were paid: its owner can cancel it, or use it for another transfer. So the
log entry of its use is looked for, and directly behind it the entry of the token's transfer to us.

Sources: https://ethereum.org/developers/docs/apis/json-rpc, EIP-3009 (https://eips.ethereum.org/EIPS/eip-3009).
"""

from itertools import pairwise
from typing import Any, NamedTuple

import httpx

from fastapi_tollbooth.rails.x402.wire import decode_json

RPC_SECONDS = 10.0
MAX_ANSWER = 4_000_000
BLOCKS = 5_000
"""Blocks per query: many nodes refuse more."""
QUERIES = 12
"""How many queries are made at most, from the newest block backwards."""

# Keccak-256 of each signature; the first four bytes for functions.
_AUTHORIZATION_STATE = "0xe94a0102"
_AUTHORIZATION_USED = "0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"
_TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


class ChainUnavailable(Exception):
    """The node did not answer, or not in a way that can be read."""


class Transferred(NamedTuple):
    """What is to be found: ``amount`` of ``token`` from ``payer`` to ``pay_to``, under the payer's ``nonce``."""

    token: str
    payer: str
    nonce: str
    pay_to: str
    amount: int


class Finding(NamedTuple):
    """What the chain knows: whether the nonce is used up, and the transaction that paid us with it, if one did.

    ``conclusive`` is false when the nonce is used, and what for was not found in the blocks that were searched.
    """

    used: bool
    transaction: str | None = None
    conclusive: bool = True


async def look_up(client: httpx.AsyncClient, url: str, wanted: Transferred) -> Finding:
    """What became of an authorization.

    Raises:
        ChainUnavailable: the node did not answer.
    """
    call = {"to": wanted.token, "data": _AUTHORIZATION_STATE + _word(wanted.payer) + wanted.nonce[2:]}
    state = await _rpc(client, url, "eth_call", [call, "latest"])
    if not _number(state):
        return Finding(used=False)
    last = _number(await _rpc(client, url, "eth_blockNumber", []))
    for _ in range(QUERIES):
        first = max(0, last - BLOCKS + 1)
        query = {
            "address": wanted.token,
            "topics": [_AUTHORIZATION_USED, "0x" + _word(wanted.payer), wanted.nonce],
            "fromBlock": hex(first),
            "toBlock": hex(last),
        }
        for entry in _entries(await _rpc(client, url, "eth_getLogs", [query])):
            return await _look_at(client, url, str(entry.get("transactionHash")), wanted)
        if first == 0:
            break
        last = first - 1
    return Finding(used=True, conclusive=False)


async def _look_at(client: httpx.AsyncClient, url: str, transaction: str, wanted: Transferred) -> Finding:
    receipt = await _rpc(client, url, "eth_getTransactionReceipt", [transaction])
    logs = _entries(receipt.get("logs") if isinstance(receipt, dict) else None)
    after_use = [after for before, after in pairwise(logs) if _is_use(before, wanted)]
    if any(_pays(log, wanted) for log in after_use):
        return Finding(used=True, transaction=transaction)
    # A transfer to us elsewhere in the same transaction may be another authorization's, which counts by itself.
    return Finding(used=True, conclusive=not any(_pays(log, wanted) for log in logs))


def _is_use(log: dict[str, Any], wanted: Transferred) -> bool:
    return _topics(log, wanted) == [_AUTHORIZATION_USED, "0x" + _word(wanted.payer), wanted.nonce]


def _pays(log: dict[str, Any], wanted: Transferred) -> bool:
    expected = [_TRANSFER, "0x" + _word(wanted.payer), "0x" + _word(wanted.pay_to)]
    return _topics(log, wanted) == expected and _number(log.get("data")) == wanted.amount


def _topics(log: dict[str, Any], wanted: Transferred) -> list[str]:
    topics = log.get("topics")
    if not isinstance(topics, list) or str(log.get("address")).lower() != wanted.token.lower():
        return []
    return [str(topic).lower() for topic in topics]


def _word(address: str) -> str:
    return address.removeprefix("0x").lower().rjust(64, "0")


def _number(value: Any) -> int:
    try:
        return int(value, 16)
    except (TypeError, ValueError) as error:
        raise ChainUnavailable("the node's answer is not a number") from error


def _entries(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ChainUnavailable("the node's answer is not a list")
    return [entry for entry in value if isinstance(entry, dict)]


async def _rpc(client: httpx.AsyncClient, url: str, method: str, params: list[Any]) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    try:
        answer = await client.post(url, json=body, timeout=RPC_SECONDS, follow_redirects=False)
        document = decode_json(answer.content) if len(answer.content) <= MAX_ANSWER else None
    except (httpx.HTTPError, ValueError) as error:
        raise ChainUnavailable(f"{method}: {type(error).__name__}") from error
    if not isinstance(document, dict) or document.get("error") is not None or "result" not in document:
        raise ChainUnavailable(f"{method}: the node refuses")
    return document["result"]
