"""HTTP/1.1 for small JSON calls, as a transport for httpx: its own costs several times as much, and every paid request
makes two.

Connections are kept alive per origin, and only re-used while they are surely open: a call that was written and not
answered may have been carried out, so nothing here is ever sent twice. Proxies from the environment are httpx's own
business.

Source: RFC 9112.
"""

import asyncio
import ssl
from collections import deque
from typing import NamedTuple

import httpx

IDLE_SECONDS = 4.0
IDLE_CONNECTIONS = 64
MAX_HEAD = 65_536
MAX_BODY = 4_194_304
_HEAD_END = b"\r\n\r\n"

_Origin = tuple[str, str, int]


class _Connection(NamedTuple):
    """An open connection, and when it was last used."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used_at: float


class KeepAliveTransport(httpx.AsyncBaseTransport):
    """Speaks HTTP/1.1 to few origins, often."""

    def __init__(self) -> None:
        self._idle: dict[_Origin, deque[_Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One call and its whole answer.

        Raises:
            httpx.ConnectError, httpx.ConnectTimeout: nothing was sent.
            httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError: what became of the call is unknown.
        """
        url, timeout = request.url, request.extensions.get("timeout", {})
        origin = (url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80))
        connection = self._reuse(origin) or await self._connect(origin, timeout.get("connect"), request)
        try:
            async with asyncio.timeout(timeout.get("read")):
                return await self._exchange(origin, connection, request)
        except TimeoutError as error:
            connection.writer.transport.abort()
            raise httpx.ReadTimeout("the answer takes too long", request=request) from error
        except (OSError, EOFError) as error:
            connection.writer.transport.abort()
            raise httpx.ReadError("the connection was lost", request=request) from error
        except (ValueError, asyncio.LimitOverrunError) as error:
            connection.writer.transport.abort()
            raise httpx.RemoteProtocolError("the answer is not HTTP/1.1, or too long", request=request) from error
        except BaseException:
            connection.writer.transport.abort()
            raise

    async def aclose(self) -> None:
        """Close what is idle."""
        for connections in self._idle.values():
            for connection in connections:
                connection.writer.close()
        self._idle.clear()

    def _reuse(self, origin: _Origin) -> _Connection | None:
        idle, now = self._idle.get(origin), asyncio.get_running_loop().time()
        while idle:
            connection = idle.pop()
            if now - connection.used_at < IDLE_SECONDS and not connection.reader.at_eof():
                return connection
            connection.writer.close()
        return None

    async def _connect(self, origin: _Origin, timeout: float | None, request: httpx.Request) -> _Connection:
        scheme, host, port = origin
        if scheme == "https" and self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_connection(
                    host, port, ssl=self._tls if scheme == "https" else None, limit=MAX_HEAD
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout("there is no connection in time", request=request) from error
        except OSError as error:
            raise httpx.ConnectError("there is no connection", request=request) from error
        return _Connection(reader, writer, 0.0)

    async def _exchange(self, origin: _Origin, connection: _Connection, request: httpx.Request) -> httpx.Response:
        reader, writer, _ = connection
        head = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
        head += [b"%b: %b" % (name, value) for name, value in request.headers.raw]
        writer.write(b"\r\n".join(head) + _HEAD_END + await request.aread())
        await writer.drain()
        status, keeps = 100, False
        while 100 <= status < 200:
            keeps, status, headers = _parse_head(await reader.readuntil(_HEAD_END))
        answer = httpx.Headers(headers)
        body, is_whole = await _body(reader, status, answer)
        if keeps and is_whole and answer.get("connection", "").lower() != "close":
            self._keep(origin, connection)
        else:
            writer.close()
        return httpx.Response(status, headers=headers, content=body, request=request)

    def _keep(self, origin: _Origin, connection: _Connection) -> None:
        idle = self._idle.setdefault(origin, deque())
        if len(idle) >= IDLE_CONNECTIONS:
            idle.popleft().writer.close()
        idle.append(connection._replace(used_at=asyncio.get_running_loop().time()))


def _parse_head(head: bytes) -> tuple[bool, int, list[tuple[bytes, bytes]]]:
    """Whether the server keeps connections, the status, the headers."""
    first, *lines = head[: -len(_HEAD_END)].split(b"\r\n")
    version, _, rest = first.partition(b" ")
    status = rest[:3]
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(status) != 3 or not status.isdigit():
        raise ValueError("the status line")
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise ValueError("a header line")
        headers.append((name, value.strip()))
    return version == b"HTTP/1.1", int(status), headers


async def _body(reader: asyncio.StreamReader, status: int, headers: httpx.Headers) -> tuple[bytes, bool]:
    """The body, and whether it ended before the connection did."""
    if "transfer-encoding" in headers:
        if headers["transfer-encoding"].lower() != "chunked" or "content-length" in headers:
            raise ValueError("the framing")
        return await _chunks(reader), True
    if "content-length" in headers:
        length = headers["content-length"]
        if not length.isascii() or not length.isdigit() or len(length) > 9 or int(length) > MAX_BODY:
            raise ValueError("the length")
        return await reader.readexactly(int(length)), True
    if status in (204, 304):
        return b"", True
    body = await reader.read(MAX_BODY + 1)
    while not reader.at_eof():
        body += await reader.read(MAX_BODY + 1)
        if len(body) > MAX_BODY:
            raise ValueError("too long")
    return body, False


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        line = await reader.readuntil(b"\r\n")
        length = int(line.partition(b";")[0].strip(), 16)
        size += length
        if length < 0 or size > MAX_BODY:
            raise ValueError("too long")
        if length == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return b"".join(parts)
        parts.append(await reader.readexactly(length))
        if await reader.readexactly(2) != b"\r\n":
            raise ValueError("the framing")
