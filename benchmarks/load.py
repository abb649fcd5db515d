"""A load generator that costs less than the server it measures: raw protocols, encoded requests, minimal parsing.

Runs in a process of its own (``python -m benchmarks.load``), an `Order` as JSON on standard input, a `Result` as JSON
on standard output. Closed loop: each connection sends its next request when it has the answer to the one before.
"""

import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import cast

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    import uvloop
except ImportError:  # not on every platform; asyncio's own loop may then be the bottleneck
    new_event_loop = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop

DRAIN_SECONDS = 10.0
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"
_STATUS = slice(9, 12)


@dataclass(frozen=True, slots=True)
class Order:
    """One measurement; times in seconds. The connections take turns with the requests.

    ``payments`` is a file with one value per line, each of which stands in once for ``{payment}`` in the only request.
    """

    port: int
    requests: tuple[str, ...]
    status: int
    connections: int
    warm_up: float
    seconds: float
    payments: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a measurement found; latencies in seconds. ``answers`` counts all, also those outside the measured time."""

    rate: float
    p50: float
    p99: float
    answers: int


class LoadError(Exception):
    """The server did not answer as expected, so the measurement means nothing."""


@dataclass(slots=True)
class _Tally:
    """What the connections of one measurement share. Moments are those of `perf_counter`."""

    requests: Iterator[bytes]
    status: bytes
    measure_from: float
    measure_until: float
    answers: int = 0
    latencies: list[float] = field(default_factory=list)
    failure: str | None = None


class _Connection(asyncio.Protocol):
    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._buffer = b""
        self._sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def start(self) -> None:
        self._sent = perf_counter()
        self._send()

    def _send(self) -> None:
        request = next(self._tally.requests, None)
        if request is None:
            self._fail("there are too few payments for this many requests")
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        head_end = data.find(_HEAD_END)
        if head_end < 0:
            self._buffer = data
            return
        head = data[: head_end + 2].lower()
        found = head.find(_LENGTH)
        if found < 0:
            self._fail(f"an answer without Content-Length: {data[:200]!r}")
            return
        value = found + len(_LENGTH)
        missing = head_end + len(_HEAD_END) + int(head[value : head.index(b"\r", value)]) - len(data)
        if missing > 0:
            self._buffer = data
            return
        self._buffer = b""
        if head[_STATUS] != self._tally.status or missing < 0:
            self._fail(f"expected one answer with status {self._tally.status.decode()}, got {data[:400]!r}")
            return
        self._answered(perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._fail(f"the server closed a connection: {exc or 'without an error'}")

    def _answered(self, now: float) -> None:
        tally = self._tally
        tally.answers += 1
        if tally.measure_from <= now < tally.measure_until:
            tally.latencies.append(now - self._sent)
        if now >= tally.measure_until or tally.failure is not None:
            self._finish()
            return
        self._sent = now
        self._send()

    def _fail(self, why: str) -> None:
        self._tally.failure = self._tally.failure or why
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._transport.close()


def encode(path: str, headers: Sequence[tuple[str, str]] = ()) -> str:
    """The text of a GET request as it goes over the wire."""
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Accept: */*", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""])


def measure(order: Order) -> Result:
    """Run one measurement in a new process.

    Raises:
        LoadError: an answer was missing, or was not the expected one.
    """
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps(asdict(order)),
        capture_output=True,
        text=True,
        check=False,
        timeout=order.warm_up + order.seconds + 2 * DRAIN_SECONDS,
        cwd=Path(__file__).parent.parent,
    )
    if finished.returncode:
        raise LoadError(finished.stderr.strip())
    return Result(**json.loads(finished.stdout))


async def _run(order: Order) -> Result:
    loop = asyncio.get_running_loop()
    tally = _Tally(_requests(order), str(order.status).encode(), 0.0, 0.0)
    connections = []
    for _ in range(order.connections):
        _, connection = await loop.create_connection(lambda: _Connection(tally), "127.0.0.1", order.port)
        connections.append(connection)
    tally.measure_from = perf_counter() + order.warm_up
    tally.measure_until = tally.measure_from + order.seconds
    for connection in connections:
        connection.start()
    answered = [connection.done for connection in connections]
    _, silent = await asyncio.wait(answered, timeout=order.warm_up + order.seconds + DRAIN_SECONDS)
    if tally.failure is not None:
        raise LoadError(tally.failure)
    if silent:
        raise LoadError(f"{len(silent)} requests got no answer within {DRAIN_SECONDS:g} s")
    if not tally.latencies:
        raise LoadError("there was no answer in the measured time")
    latencies = sorted(tally.latencies)
    count = len(latencies)
    return Result(count / order.seconds, latencies[count // 2], latencies[count * 99 // 100], tally.answers)


def _requests(order: Order) -> Iterator[bytes]:
    if order.payments is None:
        return cycle([request.encode() for request in order.requests])
    before, after = order.requests[0].encode().split(b"{payment}")
    payments = Path(order.payments).read_bytes().split(b"\n")
    return (before + payment + after for payment in payments)


def _main() -> None:
    order = Order(**json.load(sys.stdin))
    # The generator makes no reference cycles, and a pause of its own would be taken for one of the server.
    gc.disable()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        try:
            result = runner.run(_run(order))
        except (LoadError, OSError) as error:
            sys.exit(str(error))
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    _main()
