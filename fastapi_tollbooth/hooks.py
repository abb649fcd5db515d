"""Hooks: functions of the owner's that have a say in a request, or are told of it. Sync or async.

    @tollbooth.on_request          before the price          may refuse: Reject
    @tollbooth.on_price_resolved   when the price is known   may change it: money; may refuse: Reject
    @tollbooth.on_response         before the charge         may serve without charging: Waive
    @tollbooth.on_settled          after the charge          is told, and no response waits for it
    @tollbooth.on_error            after something failed    is told, and no response waits for it

A hook of the first three that fails, or returns what means nothing, is answered with 500: never charged, never served.
One may also raise an ``HTTPException`` of its own.
"""

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from fastapi_tollbooth.background import Background
from fastapi_tollbooth.errors import ConfigurationError, HookFailed, Rejected
from fastapi_tollbooth.money import Money
from fastapi_tollbooth.toll import Quote, Toll

logger = logging.getLogger("fastapi_tollbooth.hooks")


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse the request: nothing is charged and nothing is served.

    Attributes:
        status: 400 to 599, but not 402: that is said by rails, with offers.
        detail: What the caller is told, for people.
        reason: The same as a stable slug.

    Raises:
        ConfigurationError: the status is not one of a refusal.
    """

    status: int = 403
    detail: str = "The service does not serve this request."
    reason: str = "rejected"

    def __post_init__(self) -> None:
        if not 400 <= self.status <= 599 or self.status == 402:
            raise ConfigurationError(
                "rejection_status",
                f"{self.status} is not the status of a rejection: write one from 400 to 599, and not 402",
            )


@dataclass(frozen=True, slots=True)
class Waive:
    """Serve the response, and charge nothing for it. ``reason`` is for the log."""

    reason: str = "waived"


class ResponseHead(NamedTuple):
    """How a response begins."""

    status: int
    headers: Headers


OnRequest = Callable[[HTTPConnection], Reject | Awaitable[Reject | None] | None]
Repriced = Money | str | Reject | None
OnPriceResolved = Callable[[HTTPConnection, Quote], Repriced | Awaitable[Repriced]]
OnResponse = Callable[[Toll, ResponseHead], Waive | Awaitable[Waive | None] | None]
OnSettled = Callable[[Toll], Awaitable[None] | None]
OnError = Callable[[Exception, Toll | None], Awaitable[None] | None]

RequestHook = TypeVar("RequestHook", bound=OnRequest)
PriceHook = TypeVar("PriceHook", bound=OnPriceResolved)
ResponseHook = TypeVar("ResponseHook", bound=OnResponse)
SettledHook = TypeVar("SettledHook", bound=OnSettled)
ErrorHook = TypeVar("ErrorHook", bound=OnError)


class Hooks:
    """What a `Tollbooth` inherits: its decorators, and the running of what they registered, in that order."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._on_request: tuple[OnRequest, ...] = ()
        self._on_price_resolved: tuple[OnPriceResolved, ...] = ()
        self._on_response: tuple[OnResponse, ...] = ()
        self._on_settled: tuple[OnSettled, ...] = ()
        self._on_error: tuple[OnError, ...] = ()

    # ── registering ───────────────────────────────────────────────────────────────────────────────────────────────────

    def on_request(self, hook: RequestHook) -> RequestHook:
        """Decorate what looks at every request to a priced route, before its price is found."""
        self._on_request += (hook,)
        return hook

    def on_price_resolved(self, hook: PriceHook) -> PriceHook:
        """Decorate what looks at every quote. What it returns is the price, at most ``max_price``."""
        self._on_price_resolved += (hook,)
        return hook

    def on_response(self, hook: ResponseHook) -> ResponseHook:
        """Decorate what looks at every successful response before it is charged."""
        self._on_response += (hook,)
        return hook

    def on_settled(self, hook: SettledHook) -> SettledHook:
        """Decorate what is told of every toll whose money was earned."""
        self._on_settled += (hook,)
        return hook

    def on_error(self, hook: ErrorHook) -> ErrorHook:
        """Decorate what is told of every request that failed by our fault or yours, and of its toll, if it had one.

        What failed underneath is the error's ``__cause__``.
        """
        self._on_error += (hook,)
        return hook

    @property
    def looks_at_responses(self) -> bool:
        """Whether there are hooks for responses."""
        return bool(self._on_response)

    # ── running ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def admit(self, connection: HTTPConnection) -> None:
        """Ask the hooks for requests.

        Raises:
            Rejected: one refused.
            HookFailed: one failed.
        """
        for hook in self._on_request:
            answer = await _ask("on_request", hook, connection)
            if answer is not None:
                raise _refusal("on_request", answer)

    async def requoted(self, connection: HTTPConnection, quote: Quote, most: Money | None) -> Quote:
        """Ask the hooks for prices; the quote with the price that they leave.

        Raises:
            Rejected: one refused.
            HookFailed: one failed, or its price is above ``most``.
        """
        for hook in self._on_price_resolved:
            answer = await _ask("on_price_resolved", hook, connection, quote)
            if answer is None:
                continue
            price = _price(answer)
            if most is not None and (price.asset is not most.asset or most < price):
                raise _failed("on_price_resolved", f"{price} is not at most the route's max_price, {most}")
            # What is paid for one price does not buy another.
            quote = quote._replace(price=price, rule="on_price_resolved", variant=f"{quote.variant} {price}")
        return quote

    async def waives(self, toll: Toll, status: int, headers: list[tuple[bytes, bytes]]) -> bool:
        """Ask the hooks for responses whether to charge nothing.

        Raises:
            HookFailed: one failed.
        """
        head = ResponseHead(status, Headers(raw=list(headers)))
        for hook in self._on_response:
            try:
                answer = await _ask("on_response", hook, toll, head)
            except HTTPException as error:
                raise _failed("on_response", "raised where only Waive or None is possible") from error
            if isinstance(answer, Waive):
                logger.info("toll %s is waived: %s", toll.id, answer.reason)
                return True
            if answer is not None:
                raise _failed("on_response", f"returned {type(answer).__name__}")
        return False

    def settled(self, toll: Toll) -> None:
        """Tell the hooks, beside the response."""
        for hook in self._on_settled:
            self._background.start(_tell(hook, toll), "an on_settled hook")

    def failed(self, error: Exception, toll: Toll | None) -> None:
        """Tell the hooks, beside the response."""
        for hook in self._on_error:
            self._background.start(_tell(hook, error, toll), "an on_error hook")


async def _tell(hook: Callable[..., Any], *arguments: Any) -> None:
    if inspect.iscoroutinefunction(hook):
        await hook(*arguments)
        return
    result = await run_in_threadpool(hook, *arguments)
    if inspect.isawaitable(result):
        await result


async def _ask(name: str, hook: Callable[..., Any], *arguments: Any) -> Any:
    try:
        if inspect.iscoroutinefunction(hook):
            return await hook(*arguments)
        result = await run_in_threadpool(hook, *arguments)
        return await result if inspect.isawaitable(result) else result
    except HTTPException:
        raise
    except Exception as error:
        logger.exception("the %s hook failed; nothing was charged and nothing served", name)
        raise _failed(name, None) from error


def _price(answer: Any) -> Money:
    if isinstance(answer, Money):
        return answer
    if isinstance(answer, str):
        try:
            return Money.parse(answer)
        except ConfigurationError as error:
            raise _failed("on_price_resolved", f"returned {answer!r}, which is not a price") from error
    raise _refusal("on_price_resolved", answer)


def _refusal(name: str, answer: Any) -> Exception:
    if isinstance(answer, Reject):
        return Rejected(answer.status, answer.reason, answer.detail)
    return _failed(name, f"returned {type(answer).__name__}, which means nothing")


def _failed(name: str, why: str | None) -> HookFailed:
    if why is not None:
        logger.error("the %s hook %s; nothing was charged and nothing served", name, why)
    return HookFailed("hook_failed", "The service could not decide about this request. Nothing was charged.")
