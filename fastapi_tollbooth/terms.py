"""On what terms a route is served besides its price: how much of it is free, and how often it may be called. Pure."""

import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.money import Money

Settle = Literal["after", "before"]
"""When money moves: after the handler has succeeded, or before it runs."""

_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_WINDOW = re.compile(r"([1-9][0-9]{0,8}) ?(?:/|per) ?([1-9][0-9]{0,3} )?(second|minute|hour|day)s?")
_OFF = "off"


@dataclass(frozen=True, slots=True)
class FreeTier:
    """What each client gets free each day (UTC) before it pays: a number of requests, or requests of some worth.

    Attributes:
        requests: How many requests.
        credits: How much they may cost together, such as ``"$0.05"``; for prices in the same asset.

    Raises:
        ConfigurationError: it is neither one nor the other, or nothing.
    """

    requests: int | None = None
    credits: Money | str | None = None

    def __post_init__(self) -> None:
        if (self.requests is None) is (self.credits is None):
            raise ConfigurationError(
                "not_a_free_tier", 'a free tier is FreeTier(requests=10) or FreeTier(credits="$0.05"): one of the two'
            )
        if isinstance(self.credits, str):
            object.__setattr__(self, "credits", Money.parse(self.credits))
        if self.limit < 1:
            raise ConfigurationError("not_a_free_tier", "a free tier gives something; leave it out to give nothing")

    @property
    def limit(self) -> int:
        """How much a client may use up in a day, in the unit of `cost`."""
        return self.requests if self.requests is not None else self._credit.amount

    def cost(self, price: Money) -> int | None:
        """How much a request at this price uses up; None when this tier does not cover it at all."""
        if self.requests is not None:
            return 1
        return price.amount if price.asset is self._credit.asset and price.amount <= self.limit else None

    def remaining(self, used: int) -> str:
        """What is left of a day, for people: a count or an amount."""
        left = max(0, self.limit - used)
        return str(left) if self.requests is not None else str(Money(left, self._credit.asset))

    @property
    def _credit(self) -> Money:
        assert isinstance(self.credits, Money)
        return self.credits

    def __str__(self) -> str:
        return f"{self.requests} requests" if self.requests is not None else str(self.credits)


class Window(NamedTuple):
    """At most so many requests in any span of so many seconds."""

    requests: int
    seconds: int


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How often one caller may call; all windows hold at once."""

    windows: tuple[Window, ...]
    text: str

    @classmethod
    def parse(cls, text: str) -> "RateLimit | None":
        """Read ``"10/second"``, ``"100 per 5 minutes"`` or several, separated by ``;``. ``"off"`` is None: no limit.

        Raises:
            ConfigurationError: the text is none of these.
        """
        if text.strip() == _OFF:
            return None
        matches = [_WINDOW.fullmatch(part.strip()) for part in text.split(";")]
        if not all(matches):
            raise ConfigurationError(
                "not_a_rate_limit", f'{text!r} is not a rate limit: write "10/second", "100 per 5 minutes", or "off"'
            )
        windows = (Window(int(m[1]), int(m[2] or 1) * _SECONDS[m[3]]) for m in matches if m is not None)
        return cls(tuple(windows), text.strip())

    @classmethod
    def per_minute(cls, requests: int) -> "RateLimit":
        """So many in any minute."""
        return cls((Window(requests, 60),), f"{requests}/minute")

    def __str__(self) -> str:
        return self.text


class Terms(NamedTuple):
    """The terms of one route.

    Attributes:
        free_tier: What is free on this route; None leaves it to the service's free tier, False gives none.
        rate_limit: How often one payer, or one client that gets it free, may call it.
        settle: When a rail that settles every request for itself moves its money; None leaves it to the service's
            setting.
        description: What the price is for.
        metered: Whether the price is only held, and what is used of it is charged when the response ends.
        top_up: What one payment for it buys on rails that keep credit; None leaves it to the service's setting.
        buys_credit: Whether what is paid stays the payer's, as credit, instead of being earned.
    """

    free_tier: FreeTier | Literal[False] | None = None
    rate_limit: RateLimit | None = None
    settle: Settle | None = None
    description: str | None = None
    metered: bool = False
    top_up: int | Money | None = None
    buys_credit: bool = False


def parse_top_up(value: Any) -> int | Money | None:
    """What one payment buys, as ``priced(top_up=...)`` takes it: an amount, its text, or a count of requests.

    Raises:
        ConfigurationError: it is none of these, or nothing.
    """
    top_up = Money.parse(value) if isinstance(value, str) else value
    if top_up is None or (isinstance(top_up, Money) and not top_up.is_zero):
        return top_up
    if type(top_up) is int and top_up >= 1:
        return top_up
    raise ConfigurationError(
        "not_a_top_up", f"{value!r} is no top-up: write an amount such as '$1', or a count of requests"
    )
