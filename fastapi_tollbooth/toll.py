"""A toll is the charge for one request: what it costs, who pays, and where it is in its life.

Pure. Everything that affects the life-cycle is in the table below.

    authorize ──▶ AUTHORIZED ──capture──▶ CAPTURED      the request succeeded: the money is earned
                       └──────void──────▶ VOIDED        it did not: the money is the payer's again
    free ───────▶ FREE                                  nothing to pay; stays as it is
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from fastapi_tollbooth.errors import TollboothError
from fastapi_tollbooth.money import Money
from fastapi_tollbooth.terms import Terms


class State(StrEnum):
    """Where a toll is in its life."""

    FREE = "free"
    AUTHORIZED = "authorized"
    CAPTURED = "captured"
    VOIDED = "voided"


class Event(StrEnum):
    """What can happen to a toll."""

    CAPTURE = "capture"
    VOID = "void"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.FREE, Event.CAPTURE): State.FREE,
    (State.FREE, Event.VOID): State.FREE,
    (State.AUTHORIZED, Event.CAPTURE): State.CAPTURED,
    (State.AUTHORIZED, Event.VOID): State.VOIDED,
    (State.CAPTURED, Event.CAPTURE): State.CAPTURED,
    (State.VOIDED, Event.VOID): State.VOIDED,
}


class Quote(NamedTuple):
    """What one request costs, and what the answer may depend on.

    Attributes:
        price: What the request costs.
        route: The route template.
        client: Who is calling, as far as the connection tells.
        rule: Which part of the route's price decided.
        variant: The same for all requests that are priced alike on this route: a rail that sells single requests binds
            what was paid to it.
        tier: The tier that was chosen, where the route has tiers.
        tiers: All tiers of the route with their prices.
        terms: What else the route declares.
        connection: The request itself, for rails that let the owner or the caller choose by it. Not to be kept.
        admit: Rails await it with the payer's name, before money moves: it refuses payers who have had enough for now.
    """

    price: Money
    route: str
    client: str
    rule: str = "price"
    variant: str = "price"
    tier: str | None = None
    tiers: Mapping[str, Money] | None = None
    terms: Terms = Terms()
    connection: Any = None
    admit: Callable[[str], Awaitable[None]] | None = None


@dataclass(eq=False, slots=True)
class Toll:
    """The charge for one request, as its handler sees it.

    Attributes:
        id: The toll's id in the ledger, or ``"free"`` when nothing was charged.
        price: What the route asks.
        amount: What is charged, in the asset that the payer's credit is kept in.
        balance: What the payer has left after this toll; None when the rail keeps no credit.
        payer: Who pays: one prepaid credential, or one wallet. Not a secret.
        rail: The rail that the money came in by, such as ``"l402"``.
        route: The route template, such as ``"/weather/{city}"``.
        rule: Which part of the route's price decided, such as ``"match[0]"`` or ``"fallback"``.
        tier: The tier that was chosen, where the route has tiers.
        caveats: The owner's conditions in the credential, those alone that the service minted.
    """

    id: str
    price: Money
    amount: Money
    balance: Money | None
    payer: str
    rail: str
    route: str
    rule: str = "price"
    tier: str | None = None
    caveats: Mapping[str, str] = field(default_factory=dict)
    state: State = State.AUTHORIZED
    authorization: Any = field(default=None, repr=False)

    @property
    def is_open(self) -> bool:
        """Whether the toll still has to be captured or voided."""
        return self.state is State.AUTHORIZED

    def advance(self, event: Event) -> None:
        """Move through the life-cycle.

        Raises:
            TollboothError: the event cannot happen in this state.
        """
        try:
            self.state = TRANSITIONS[self.state, event]
        except KeyError:
            raise TollboothError(f"toll {self.id} is {self.state} and cannot {event}") from None


def free_toll(quote: Quote) -> Toll:
    """The toll of a request that costs nothing."""
    nothing = Money(0, quote.price.asset)
    return Toll("free", nothing, nothing, None, "", "", quote.route, quote.rule, quote.tier, state=State.FREE)
