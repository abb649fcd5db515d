"""A toll is the charge for one request: what it costs, who pays, and where it is in its life.

Pure. Everything that affects the life-cycle is in the table below.

    authorize ──▶ AUTHORIZED ──capture──▶ CAPTURED      the request succeeded: what it cost is earned
                       └──────void──────▶ VOIDED        it did not: the money is the payer's again
    free ───────▶ FREE                                  nothing to pay; stays as it is
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from fastapi_tollbooth.errors import ConfigurationError, TollboothError, TollClosed, TollExceeded
from fastapi_tollbooth.keeping import Keeping
from fastapi_tollbooth.money import Money, divide_up, money_of
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
        metered: Whether the price is only held, and what the handler uses of it is charged.
        authorization: What the rail needs to settle it.
        keeping: Gets the response before the toll is captured, where the rail wants it.
        cost: What the handler has decided that the request costs, in the asset of ``price``; None leaves it at that.
        state: Where it is in its life.
        is_sealed: Whether it is being captured, which may take a while: what it costs is what it cost then.
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
    metered: bool = False
    authorization: Any = field(default=None, repr=False)
    keeping: Keeping | None = field(default=None, repr=False)
    cost: Money | None = None
    state: State = State.AUTHORIZED
    is_sealed: bool = False

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> Any:
        """Refuse to be read from a request: whoever sends it would decide what it says, and nobody would have paid."""
        raise ConfigurationError(
            "toll_without_price", 'a toll comes from a price: write toll: Annotated[Toll, Depends(priced("$0.01"))]'
        )

    @property
    def is_open(self) -> bool:
        """Whether the toll still has to be captured or voided."""
        return self.state is State.AUTHORIZED

    @property
    def charge(self) -> Money:
        """What is charged when the toll is captured, in the asset that the payer's credit is kept in; rounded up."""
        if self.cost is None and not self.metered:
            return self.amount
        return self.in_credit(self.cost or Money(0, self.price.asset))

    def balance_after(self, charge: Money) -> Money | None:
        """What the payer has left once this is charged: what was held and not used is theirs again."""
        if self.balance is None or charge is self.amount:
            return self.balance
        return Money(self.balance.amount + self.amount.amount - charge.amount, self.balance.asset)

    def in_credit(self, cost: Money) -> Money:
        """A cost of this request in the asset that the payer's credit is kept in, at the rate of this toll; rounded up.

        Raises:
            ConfigurationError: the cost is not one of the price's asset, or is out of range.
        """
        if cost.asset is not self.price.asset:
            raise ConfigurationError(
                "another_asset",
                f"the toll is priced in {self.price.asset}, and {cost} is not: write an amount in the asset of "
                "the price",
            )
        if cost == self.price or self.amount.is_zero:
            return self.amount
        return Money(divide_up(cost.amount * self.amount.amount, self.price.amount), self.amount.asset)

    def use(self, amount: str | Money) -> Money:
        """Add to what a metered request has used; what it has used so far, all together.

        From one thread at a time: what two add at once may count once.

        Raises:
            TollExceeded: more would be used than is held; nothing was added.
            TollClosed: the response has ended, or the toll is not metered.
            ConfigurationError: the amount is not one of the price's asset.
        """
        if not self.metered:
            raise TollClosed('only a metered toll is used bit by bit: declare priced("$0.50", metered=True)')
        used = self.cost or Money(0, self.price.asset)
        return self._decide(used + self._amount(amount))

    def charge_instead(self, amount: str | Money) -> None:
        """Have the request cost this, and not its price.

        Raises:
            TollExceeded: it is more than the price.
            TollClosed: the response has started, so the toll is captured.
            ConfigurationError: the amount is not one of the price's asset.
        """
        self._decide(self._amount(amount))

    def refund(self) -> None:
        """Have the request cost nothing.

        Raises:
            TollClosed: the response has started, so the toll is captured.
        """
        self._decide(Money(0, self.price.asset))

    def _amount(self, amount: str | Money) -> Money:
        parsed = money_of(amount)
        if parsed.asset is not self.price.asset:
            raise ConfigurationError(
                "another_asset",
                f"the toll is priced in {self.price.asset}, and {parsed} is not: write an amount in the asset "
                "of the price",
            )
        return parsed

    def _decide(self, cost: Money) -> Money:
        # Of a metered response that is given away, or has failed, the use is counted to its end and costs nothing.
        is_voided = self.state is State.VOIDED
        if (is_voided and not self.metered) or (not is_voided and (self.is_sealed or self.state is State.CAPTURED)):
            how = "being captured" if self.is_open else self.state
            raise TollClosed(f"toll {self.id} is {how}: correct it with `await tollbooth.reconcile(toll.id, ...)`")
        if self.state is State.AUTHORIZED and not cost <= self.price:
            raise TollExceeded(f"toll {self.id} holds {self.price}, and {cost} is more")
        self.cost = cost
        return cost

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
    free = Toll("free", nothing, nothing, None, "", "", quote.route, quote.rule, quote.tier, state=State.FREE)
    free.metered = quote.terms.metered
    return free
