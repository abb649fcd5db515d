"""Public tickers, asked over real HTTP from a local server that answers in the exchanges' shapes."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from fastapi_tollbooth import ConfigurationError
from fastapi_tollbooth.money import Rate
from fastapi_tollbooth.rates import MedianRate
from fastapi_tollbooth.tickers import ENDPOINTS, MAX_ANSWER, Endpoint, UnusableAnswer, tickers

# Shortened; the shapes are those of the exchanges' documentation, which `tickers` names.
ANSWERS: dict[str, Any] = {
    "bitstamp": {"timestamp": "1763673600", "last": "97000", "bid": "96999", "ask": "97001", "pair": "BTC/USD"},
    "coinbase": {"data": {"amount": "97123.455", "base": "BTC", "currency": "USD"}},
    "gemini": {"bid": "97100.00", "ask": "97101.00", "last": "97100.50", "volume": {"BTC": "1", "USD": "2"}},
    "kraken": {"error": [], "result": {"XXBTZUSD": {"a": ["97200.1", "1", "1.0"], "c": ["97200.10000", "0.005"]}}},
}


class Exchanges(ThreadingHTTPServer):
    """All exchanges on one local server: `/name` answers as the exchange does."""

    daemon_threads = True

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {name: json.dumps(answer).encode() for name, answer in ANSWERS.items()}
        self.status = 200
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        base = f"http://127.0.0.1:{self.server_port}"
        return {name: Endpoint(f"{base}/{name}", endpoint.price) for name, endpoint in ENDPOINTS.items()}


class _Answer(BaseHTTPRequestHandler):
    server: Exchanges

    def do_GET(self) -> None:
        body = self.server.bodies[self.path[1:]]
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", "/kraken")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def exchanges() -> Iterator[Exchanges]:
    server = Exchanges()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.anyio
async def test_every_exchange_s_price_is_found(exchanges: Exchanges) -> None:
    asked = tickers(ENDPOINTS, exchanges.endpoints)
    rates = {name: str(await ticker()) for name, ticker in asked.items()}
    assert rates == {
        "bitstamp": "97000.000000",
        "coinbase": "97123.460000",
        "gemini": "97100.500000",
        "kraken": "97200.100000",
    }


@pytest.mark.anyio
async def test_the_median_over_http(exchanges: Exchanges) -> None:
    exchanges.bodies["gemini"] = b'{"last": "1.00"}'
    rates = MedianRate(tickers(["bitstamp", "gemini", "kraken"], exchanges.endpoints))
    await rates.refresh()
    assert rates.current() == Rate.parse("97000")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b"[]", b"{}", b"null", b"9" * 5_000, b" " * (MAX_ANSWER + 1)),
        *(b'{"last": %s}' % value for value in (b"null", b'"NaN"', b'"-1"', b"0", b'"1e999"', b"[]", b'"1,000"')),
    ],
)
async def test_an_answer_that_is_no_price_is_no_rate(exchanges: Exchanges, body: bytes) -> None:
    exchanges.bodies["bitstamp"] = body
    with pytest.raises(ValueError, match=r".*"):
        await tickers(["bitstamp"], exchanges.endpoints)["bitstamp"]()


@pytest.mark.anyio
@pytest.mark.parametrize("status", [301, 404, 429, 500])
async def test_only_a_200_counts_and_redirects_are_not_followed(exchanges: Exchanges, status: int) -> None:
    exchanges.status = status
    with pytest.raises(UnusableAnswer, match=str(status)):
        await tickers(["kraken"], exchanges.endpoints)["kraken"]()


@pytest.mark.anyio
async def test_an_exchange_that_is_not_there() -> None:
    nowhere = {"kraken": Endpoint("http://127.0.0.1:1/", ENDPOINTS["kraken"].price)}
    with pytest.raises(httpx.TransportError):
        await tickers(["kraken"], nowhere)["kraken"]()


def test_tickers_are_asked_over_tls_and_unknown_ones_are_refused() -> None:
    assert all(endpoint.url.startswith("https://") for endpoint in ENDPOINTS.values())
    with pytest.raises(ConfigurationError, match="mtgox"):
        tickers(["kraken", "mtgox"])
