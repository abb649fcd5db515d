"""A facilitator that agrees to everything at once: ``python -m benchmarks.loopback_facilitator PORT``."""

import asyncio
import json
import sys
from typing import cast

_NETWORK = "eip155:84532"
_KINDS = [{"x402Version": 2, "scheme": "exact", "network": _NETWORK}]
_PAYER = "0x" + "ab" * 20
_HEAD_END = b"\r\n\r\n"


def _answer(document: object) -> bytes:
    text = json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text)


_ANSWERS = {
    b"/verify": _answer({"isValid": True, "payer": _PAYER}),
    b"/settle": _answer({"success": True, "transaction": "0x" + "1" * 64, "network": _NETWORK, "payer": _PAYER}),
    b"/supported": _answer({"kinds": _KINDS, "extensions": [], "signers": {}}),
}


class _Call(asyncio.Protocol):
    """Whole requests in, whole answers out."""

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(_HEAD_END)) >= 0:
            head = self._buffer[:end].lower()
            found = head.find(b"content-length:")
            length = int(head[found + 15 :].split(b"\r", 1)[0]) if found >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._transport.write(_ANSWERS[head.split(b" ", 2)[1]])


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Call, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
