"""Facilitators: the services that check signatures and put payments on chain, by three calls of JSON over HTTPS.

Answers are read by their shape, not by their status: some facilitators send rejections with 400. What cannot be read
is no answer; of a settlement that means that its outcome is unknown.

Source: specs/x402-specification-v2.md §7 of the x402 repository.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeGuard

import httpx

from fastapi_tollbooth.rails.x402.wire import decode_json

logger = logging.getLogger("fastapi_tollbooth.x402")

MAX_ANSWER = 262_144
CONNECT_SECONDS = 5.0
VERIFY_SECONDS = 10.0
SETTLE_SECONDS = 45.0

# Reasons that a facilitator gives when it does not know either, or when the authorization was used before: perhaps by
# the very settlement whose answer was lost.
_UNSURE = (
    "settlement_pending",
    "timed_out",
    "timeout",
    "node_failure",
    "unexpected",
    "nonce_already_used",
    "already_used",
    "duplicate",
    "block_height_exceeded",
    "internal",
)
_MAX_REASON = 100


class Verdict(NamedTuple):
    """Whether a payment is good, and why not; ``reason`` is the facilitator's slug."""

    valid: bool
    payer: str | None
    reason: str = ""


class Outcome(Enum):
    """How a settlement went. UNSENT is not UNKNOWN: the facilitator was not reached, so nothing can have moved."""

    SETTLED = "settled"
    FAILED = "failed"
    UNKNOWN = "unknown"
    UNSENT = "unsent"


class Settlement(NamedTuple):
    """The end of a settlement: the transaction when it is settled, else the facilitator's slug."""

    outcome: Outcome
    transaction: str = ""
    reason: str = ""


class NoAnswer(Exception):
    """No facilitator gave an answer that can be read."""


class Authorizer(Protocol):
    """Makes the headers that a facilitator wants on each call."""

    def headers(self, method: str, url: str) -> Mapping[str, str]:
        """The headers for one call."""
        ...


class Facilitator:
    """The facilitators of one network, in order. Only the first one ever settles; any may verify."""

    def __init__(self, urls: Sequence[str], authorizers: Mapping[str, Authorizer] | None = None) -> None:
        self.urls = tuple(url.rstrip("/") for url in urls)
        self._authorizers = dict(authorizers or {})

    async def verify(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> Verdict:
        """Ask whether a payment is good; the next facilitator is asked where one does not answer.

        Raises:
            NoAnswer: none of them answered.
        """
        for url in self.urls:
            try:
                answer = await self._call(client, "POST", f"{url}/verify", body, VERIFY_SECONDS)
            except (httpx.HTTPError, ValueError) as error:
                logger.warning("facilitator %s did not verify: %s", _host(url), type(error).__name__)
                continue
            if isinstance(answer.get("isValid"), bool):
                payer = answer.get("payer")
                return Verdict(answer["isValid"], payer if isinstance(payer, str) else None, _reason(answer))
            logger.warning("facilitator %s gave an answer to /verify that is none", _host(url))
        raise NoAnswer

    async def settle(self, client: httpx.AsyncClient, body: Mapping[str, Any], network: Collection[str]) -> Settlement:
        """Have a payment put on chain. It is sent once, and to nobody else when the answer is lost."""
        url = self.urls[0]
        try:
            answer = await self._call(client, "POST", f"{url}/settle", body, SETTLE_SECONDS)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            logger.warning("facilitator %s was not reached: %s", _host(url), type(error).__name__)
            return Settlement(Outcome.UNSENT)
        except (httpx.HTTPError, ValueError) as error:
            logger.error("facilitator %s: the answer to a settlement is lost: %s", _host(url), type(error).__name__)
            return Settlement(Outcome.UNKNOWN)
        return read_settlement(answer, network)

    async def supported(self, client: httpx.AsyncClient) -> list[dict[str, Any]]:
        """The kinds of payment that the first facilitator takes.

        Raises:
            NoAnswer: it did not answer.
        """
        try:
            answer = await self._call(client, "GET", f"{self.urls[0]}/supported", None, VERIFY_SECONDS)
        except (httpx.HTTPError, ValueError) as error:
            raise NoAnswer from error
        kinds = answer.get("kinds")
        return [kind for kind in kinds if isinstance(kind, dict)] if isinstance(kinds, list) else []

    async def _call(
        self, client: httpx.AsyncClient, method: str, url: str, body: Mapping[str, Any] | None, timeout: float
    ) -> dict[str, Any]:
        authorizer = self._authorizers.get(httpx.URL(url).host)
        request = client.build_request(
            method,
            url,
            json=body,
            headers=authorizer.headers(method, url) if authorizer else None,
            timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
        )
        answer = await client.send(request, stream=True, follow_redirects=False)
        try:
            raw = await _bounded(answer)
        finally:
            await answer.aclose()
        document = decode_json(raw)
        if not isinstance(document, dict):
            raise ValueError("the answer is not a JSON object")
        if not answer.is_success and True in (document.get("isValid"), document.get("success")):
            raise ValueError("the answer is a yes with the status of a failure")
        return document


def read_settlement(answer: Mapping[str, Any], network: Collection[str]) -> Settlement:
    """What an answer to /settle says. It counts as settled only with a transaction, on a network of these names."""
    reason = _reason(answer)
    transaction, where = answer.get("transaction"), answer.get("network")
    if answer.get("success") is True:
        if _is_name(transaction) and (where is None or where in network):
            return Settlement(Outcome.SETTLED, transaction)
        logger.error("a facilitator reports a settlement without a transaction on %s", ", ".join(network))
        return Settlement(Outcome.UNKNOWN)
    if answer.get("success") is not False or not reason or any(part in reason for part in _UNSURE):
        return Settlement(Outcome.UNKNOWN, reason=reason)
    return Settlement(Outcome.FAILED, reason=reason)


def _is_name(transaction: Any) -> TypeGuard[str]:
    if not isinstance(transaction, str) or not 0 < len(transaction) <= 200:
        return False
    return transaction.isascii() and transaction.isprintable()


async def _bounded(answer: httpx.Response) -> bytes:
    parts, size = [], 0
    async for part in answer.aiter_bytes():
        size += len(part)
        if size > MAX_ANSWER:
            raise ValueError("the answer is too long")
        parts.append(part)
    return b"".join(parts)


def _host(url: str) -> str:
    return httpx.URL(url).host  # without what an owner may have put into the rest of it


def _reason(answer: Mapping[str, Any]) -> str:
    # A slug may be shown to callers; free text of a stranger's server may not.
    reason = answer.get("invalidReason") or answer.get("errorReason")
    if not isinstance(reason, str) or not reason.isascii() or not reason.replace("_", "").isalnum():
        return ""
    return reason[:_MAX_REASON]
