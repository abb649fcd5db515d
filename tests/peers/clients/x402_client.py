"""pip ``x402``, its client for httpx and its client for requests, each paying for the same routes.

Told on standard input where to pay and with which key; prints what came of each call as one line of JSON.
"""

import asyncio
import json
import sys
from typing import Any

from eth_account import Account  # type: ignore[import-not-found]
from x402 import x402Client, x402ClientSync  # type: ignore[import-not-found]
from x402.http.clients import wrapHttpxWithPayment  # type: ignore[import-not-found]
from x402.http.clients.requests import x402_requests  # type: ignore[import-not-found]
from x402.mechanisms.evm import EthAccountSigner  # type: ignore[import-not-found]
from x402.mechanisms.evm.exact.register import register_exact_evm_client  # type: ignore[import-not-found]


def seen(answer: Any) -> dict[str, Any]:
    """What tests want to know of an answer."""
    return {
        "status": answer.status_code,
        "body": answer.json(),
        "receipt": answer.headers.get("payment-response"),
    }


async def main() -> None:
    """Pay for each URL, twice over."""
    told = json.load(sys.stdin)
    signer = EthAccountSigner(Account.from_key(told["key"]))
    answers = []
    client = register_exact_evm_client(x402Client(), signer)
    async with wrapHttpxWithPayment(client, timeout=30) as http:
        answers += [seen(await http.get(url)) for url in told["urls"]]
    session = x402_requests(register_exact_evm_client(x402ClientSync(), signer))
    answers += [seen(session.get(url, timeout=30)) for url in told["urls"]]
    print(json.dumps(answers))


asyncio.run(main())
