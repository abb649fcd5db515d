"""HTTP/1.1 under httpx: framing, connections that are kept and connections that are gone, and nothing sent twice."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastapi_tollbooth.rails.x402 import transport
from fastapi_tollbooth.rails.x402.transport import KeepAliveTransport

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Peer:
    """A server that gives one scripted answer per call; None hangs up, a float waits that long first."""

    def __init__(self, *answers: bytes | float | None) -> None:
        self.answers = list(answers)
        self.calls: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(v) for n, _, v in _lines(head) if n == b"content-length"), 0)
                self.calls.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0) if self.answers else OK
                if isinstance(answer, float):
                    await asyncio.sleep(answer)
                    answer = OK
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
                if b"connection: close" in answer or answer.startswith(b"HTTP/1.0"):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def _lines(head: bytes) -> list[tuple[bytes, bytes, bytes]]:
    return [line.lower().partition(b": ") for line in head.split(b"\r\n")]


@asynccontextmanager
async def talking(*answers: bytes | float | None) -> AsyncIterator[tuple[httpx.AsyncClient, Peer]]:
    peer = Peer(*answers)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with httpx.AsyncClient(
        transport=KeepAliveTransport(), base_url=f"http://127.0.0.1:{port}", timeout=5, trust_env=False
    ) as client:
        yield client, peer
    server.close()
    await server.wait_closed()


async def test_a_call_carries_its_headers_and_its_body() -> None:
    async with talking() as (client, peer):
        answer = await client.post("/verify?x=1", json={"a": 1}, headers={"Authorization": "Bearer t"})
    assert (answer.status_code, answer.json()) == (200, {})
    call = peer.calls[0]
    assert call.startswith(b"POST /verify?x=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: Bearer t\r\n" in call
    assert call.endswith(b'\r\n\r\n{"a":1}')


async def test_a_connection_is_used_again() -> None:
    async with talking() as (client, peer):
        for _ in range(5):
            await client.get("/")
        assert (peer.connections, len(peer.calls)) == (1, 5)
        await asyncio.gather(*(client.get("/") for _ in range(4)))
        assert (len(peer.calls), peer.connections <= 4) == (9, True)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nt: u\r\n\r\n",
            b"abcde",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}", b"{}"),
    ],
)
async def test_every_framing_is_read_and_the_next_call_works(answer: bytes, body: bytes) -> None:
    async with talking(answer) as (client, _):
        assert (await client.get("/")).content == body
        assert (await client.get("/")).content == b"{}"


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-2\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_protocol_error(answer: bytes) -> None:
    async with talking(answer) as (client, _):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")
        assert (await client.get("/")).status_code == 200


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nab"])
async def test_a_lost_answer_is_an_error_and_nothing_is_sent_again(answer: bytes | None) -> None:
    async with talking(answer) as (client, peer):
        with pytest.raises(httpx.ReadError):
            await client.post("/settle", json={})
        assert len(peer.calls) == 1


async def test_an_answer_that_takes_too_long_is_a_timeout() -> None:
    async with talking(1.0) as (client, peer):
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/settle", json={}, timeout=0.1)
        assert len(peer.calls) == 1
        assert (await client.get("/")).status_code == 200


async def test_a_cancelled_call_leaves_no_half_read_connection_behind() -> None:
    async with talking(0.3) as (client, peer):
        call = asyncio.ensure_future(client.get("/"))
        while not peer.calls:
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await client.get("/")).content == b"{}"
        assert peer.connections == 2


async def test_a_connection_that_the_server_closed_or_that_is_old_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with talking() as (client, peer):
        await client.get("/")
        monkeypatch.setattr(transport, "IDLE_SECONDS", 0.0)
        await client.get("/")
        assert peer.connections == 2
    monkeypatch.undo()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with httpx.AsyncClient(transport=KeepAliveTransport(), trust_env=False) as client:
        for _ in range(3):
            answer = await client.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
            assert answer.status_code == 200
            await asyncio.sleep(0.05)
    server.close()
    await server.wait_closed()


async def test_nobody_there_is_a_connect_error() -> None:
    async with httpx.AsyncClient(transport=KeepAliveTransport(), trust_env=False) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("http://127.0.0.1:9/")
        with pytest.raises(httpx.ConnectError):
            await client.get("http://name.invalid/")


async def test_tls_is_verified() -> None:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    async with httpx.AsyncClient(transport=KeepAliveTransport(), trust_env=False, timeout=2) as client:
        with pytest.raises(httpx.TransportError):
            await client.get(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        made = client._transport._tls  # type: ignore[attr-defined]
        assert made.verify_mode is ssl.CERT_REQUIRED
        assert made.check_hostname
    server.close()
    await server.wait_closed()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
async def test_any_bytes_at_all_are_an_answer_or_an_error(noise: bytes) -> None:
    async with talking(b"HTTP/1.1 200 OK\r\nconnection: close\r\n" + noise, *([b"connection: close" + noise])) as (
        client,
        _,
    ):
        for _ in range(2):
            try:
                answer = await client.get("/")
            except httpx.TransportError:
                continue
            assert isinstance(answer.content, bytes)
