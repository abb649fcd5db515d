"""pip ``x402`` 0.2.1, the last client of version 1 of the protocol, for httpx.

Told on standard input where to pay and with which key; prints what came of each call as one line of JSON.
"""

import asyncio
import json
import sys

from eth_account import Account  # type: ignore[import-not-found]
from x402.clients.httpx import x402HttpxClient  # type: ignore[import-not-found]


async def main() -> None:
    """Pay for each URL, with a client of its own: one client pays once."""
    told = json.load(sys.stdin)
    answers = []
    for url in told["urls"]:
        async with x402HttpxClient(account=Account.from_key(told["key"]), timeout=30) as http:
            answer = await http.get(url)
        receipt = answer.headers.get("x-payment-response")
        answers.append({"status": answer.status_code, "body": answer.json(), "receipt": receipt})
    print(json.dumps(answers))


asyncio.run(main())
