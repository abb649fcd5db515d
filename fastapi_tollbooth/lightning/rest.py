"""A node behind HTTP: every call bounded in time, size and tries, every error a `LightningUnavailable` without secrets.

Answers of nodes hold preimages, of unpaid invoices too. They are never logged, nor is any part of a body or a header.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.lightning import LightningUnavailable
from fastapi_tollbooth.lightning.tls import tls_context
from fastapi_tollbooth.money import MSAT_PER_BTC
from fastapi_tollbooth.settings import LightningSettings

logger = logging.getLogger("fastapi_tollbooth.lightning")

MAX_ANSWER = 65_536
_MOST_MSAT = 21_000_000 * MSAT_PER_BTC
_KEY_REFUSED = (401, 403)


class Answer(NamedTuple):
    """A node's answer: its status, and its JSON document, None where there is none."""

    status: int
    document: Any


class NodeClient:
    """Calls one node over connections that are opened when first needed and kept.

    Args:
        node: What the node is called in errors and logs.
        default_url: Where such a node listens when the settings say nothing.
        headers: What every call carries, such as the key.

    Raises:
        ConfigurationError: the URL or the certificate cannot be used.
    """

    def __init__(
        self,
        node: str,
        settings: LightningSettings,
        *,
        default_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> None:
        self._node = node
        self._timeout = settings.timeout
        url = _base_url(settings.url.get_secret_value() if settings.url else default_url)
        self._options: dict[str, Any] = {
            "base_url": url,
            "headers": {"Accept": "application/json", "Accept-Encoding": "identity", **(headers or {})},
            "auth": auth,
            "timeout": settings.timeout,
            # Loading all authorities takes a while, and without TLS there is nobody to verify.
            "verify": uses_tls([url], settings) and tls_context(settings.tls_cert, settings.pin),
            "follow_redirects": False,
        }
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def get(self, path: str, *, expect: tuple[int, ...] = ()) -> Answer:
        """Ask something, and once more if the first attempt fails."""
        return await self._ask("GET", path, expect, tries=2)

    async def post(self, path: str, *, expect: tuple[int, ...] = (), tries: int = 1, **content: Any) -> Answer:
        """Tell something, once: only a call that changes nothing when repeated may have more ``tries``.

        Args:
            expect: Statuses of errors that the caller understands.
            content: ``json`` or ``data``, as httpx takes it.

        Raises:
            LightningUnavailable: no answer, or one that is neither a success nor expected.
        """
        return await self._ask("POST", path, expect, tries, **content)

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def _ask(self, method: str, path: str, expect: tuple[int, ...], tries: int, **content: Any) -> Answer:
        deadline = asyncio.get_running_loop().time() + self._timeout
        for attempt in range(1, tries + 1):
            try:
                async with asyncio.timeout_at(deadline):
                    answer = await self._exchange(method, path, content)
            except (httpx.HTTPError, OSError, TimeoutError, ValueError, RecursionError) as error:
                problem = type(error).__name__
            else:
                if answer.status < 300 or answer.status in expect:
                    return answer
                problem = f"status {answer.status}"
                if answer.status in _KEY_REFUSED:
                    logger.error("the %s node refuses its key: look at TOLLBOOTH_LIGHTNING__API_KEY", self._node)
                    break
            logger.warning("the %s node could not be asked (attempt %d of %d): %s", self._node, attempt, tries, problem)
        # Nothing of the cause is passed on: requests hold the key, answers hold preimages.
        raise LightningUnavailable(f"the {self._node} node could not be asked: {problem}") from None

    async def _exchange(self, method: str, path: str, content: dict[str, Any]) -> Answer:
        async with self._opened().stream(method, path, **content) as response:
            body = bytearray()
            # Not decompressed: a small answer could become a large one, and none was asked for in that form.
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise ValueError("the answer is too long")
        if response.status_code >= 300:
            with contextlib.suppress(ValueError, RecursionError):
                return Answer(response.status_code, json.loads(body))
            return Answer(response.status_code, None)
        return Answer(response.status_code, json.loads(body))

    def _opened(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            left, left_loop = self._client, self._loop
            self._client, self._loop = httpx.AsyncClient(**self._options), loop
            # Connections belong to the event loop that opened them.
            if left is not None and left_loop is not None and not left_loop.is_closed():
                asyncio.run_coroutine_threadsafe(left.aclose(), left_loop)
        return self._client


@contextlib.contextmanager
def reading(node: str) -> Iterator[None]:
    """Read a node's answer; one of another shape than documented is no answer.

    Raises:
        LightningUnavailable: the body of the statement tripped over the answer.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError) as error:
        problem = type(error).__name__
        logger.error("the %s node answers in a form that is not documented: %s", node, problem)
        raise LightningUnavailable(f"the {node} node answers in a form that is not documented") from None


def whole(value: Any, most: int = _MOST_MSAT) -> int:
    """A count that a node wrote as a JSON number or, as LND does, as text.

    Raises:
        ValueError: it is neither, negative, or beyond what exists.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError("not a whole number")
    number = int(value)
    if not 0 <= number <= most:
        raise ValueError("out of range")
    return number


def moment(value: Any, *, per_second: int = 1) -> datetime | None:
    """A node's Unix time; None where it gives none, which some write as zero."""
    seconds = whole(0 if value is None else value, 10**15) / per_second
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def bytes32(value: Any) -> bytes:
    """A payment hash in hex.

    Raises:
        ValueError: it is anything else.
    """
    found = bytes.fromhex(value)
    if len(found) != 32:
        raise ValueError("not 32 bytes")
    return found


def required_key(settings: LightningSettings, what: str) -> str:
    """The node's key.

    Raises:
        ConfigurationError: it is not set, or cannot be a header's value; says what it should be.
    """
    key = settings.api_key.get_secret_value().strip() if settings.api_key else ""
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigurationError("node_key", f"TOLLBOOTH_LIGHTNING__API_KEY must be {what}")
    return key


def uses_tls(addresses: Sequence[str], settings: LightningSettings) -> bool:
    """Whether a node's addresses want TLS.

    Raises:
        ConfigurationError: one does not, and yet there is a certificate that it should have.
    """
    secured = [urlsplit(address).scheme in ("https", "wss") for address in addresses]
    if not all(secured) and (settings.tls_cert or settings.tls_pin):
        raise ConfigurationError(
            "node_certificate",
            "TOLLBOOTH_LIGHTNING__TLS_CERT and __TLS_PIN say which certificate the node must have, but its address "
            "does without: use https, or wss",
        )
    return any(secured)


def _base_url(url: str | None) -> str:
    parts = urlsplit(url or "")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ConfigurationError(
            "node_address",
            "TOLLBOOTH_LIGHTNING__URL must be the address of the node, such as https://node.example:8080, "
            "without a user, a password or a query: keys go to TOLLBOOTH_LIGHTNING__API_KEY",
        )
    return parts.geturl()
