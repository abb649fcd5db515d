"""Public tickers of exchanges, over httpx: what each URL answers, and where the price is in it.

Sources, as of 2026: https://docs.kraken.com/api/docs/rest-api/get-ticker-information, https://www.bitstamp.net/api/#ticker,
https://docs.cdp.coinbase.com/coinbase-app/track-apis/prices, https://docs.gemini.com/rest/market-data.
"""

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import httpx

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.money import Rate
from fastapi_tollbooth.rates import TIMEOUT_SECONDS, Ticker

MAX_ANSWER = 65_536


class Endpoint(NamedTuple):
    """A ticker's URL, and how to find the price of one bitcoin in its answer."""

    url: str
    price: Callable[[Any], Any]


ENDPOINTS: Mapping[str, Endpoint] = {
    "bitstamp": Endpoint("https://www.bitstamp.net/api/v2/ticker/btcusd/", lambda answer: answer["last"]),
    "coinbase": Endpoint("https://api.coinbase.com/v2/prices/BTC-USD/spot", lambda answer: answer["data"]["amount"]),
    "gemini": Endpoint("https://api.gemini.com/v1/pubticker/btcusd", lambda answer: answer["last"]),
    "kraken": Endpoint(
        "https://api.kraken.com/0/public/Ticker?pair=XBTUSD", lambda answer: answer["result"]["XXBTZUSD"]["c"][0]
    ),
}


class UnusableAnswer(ValueError):
    """A ticker answered something that is not a price."""


def tickers(names: Iterable[str], endpoints: Mapping[str, Endpoint] = ENDPOINTS) -> dict[str, Ticker]:
    """Tickers by name.

    Raises:
        ConfigurationError: there is no such ticker.
    """
    found: dict[str, Ticker] = {}
    for name in names:
        if name not in endpoints:
            raise ConfigurationError(
                "unknown_ticker", f"there is no ticker {name!r}: choose of {', '.join(sorted(endpoints))}"
            )
        found[name] = _ticker(endpoints[name])
    return found


def _ticker(endpoint: Endpoint) -> Ticker:
    async def ask() -> Rate:
        # One request a minute is not worth a connection that is kept open, and a redirect is not worth following.
        async with (
            httpx.AsyncClient(timeout=TIMEOUT_SECONDS, follow_redirects=False) as client,
            client.stream("GET", endpoint.url, headers={"Accept": "application/json"}) as response,
        ):
            if response.status_code != 200:
                raise UnusableAnswer(f"status {response.status_code}")
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise UnusableAnswer("the answer is too long")
        return _rate(endpoint, httpx.Response(200, content=body).json(parse_float=Decimal))

    return ask


def _rate(endpoint: Endpoint, answer: Any) -> Rate:
    try:
        price = Decimal(str(endpoint.price(answer)))
        return Rate.parse(format(price.quantize(Decimal("0.01")), "f"))
    except (LookupError, TypeError, InvalidOperation, ConfigurationError) as error:
        raise UnusableAnswer("there is no price in the answer") from error
