"""A rail is a way for money to reach the service: it makes challenges and turns credentials into tolls."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

from fastapi_tollbooth.errors import HeaderLines, TollboothError
from fastapi_tollbooth.keeping import Keeping, Response
from fastapi_tollbooth.money import Money
from fastapi_tollbooth.toll import Quote, Toll

RawHeaders = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to pay: header lines for the 402, and members for its body."""

    headers: HeaderLines
    members: dict[str, Any]
    expires_at: datetime


class Authorization(NamedTuple):
    """Money that is promised to one toll. ``state`` is what the rail needs to settle it; no secrets.

    ``caveats`` are conditions of the owner's own that the service put into the credential. ``price`` is what the
    request costs where an earlier quote holds; None is the price of the quote at hand. ``keeping`` gets the response
    before the toll is captured.
    """

    toll_id: str
    amount: Money
    balance: Money | None
    payer: str
    state: Any = None
    caveats: Mapping[str, str] = MappingProxyType({})
    price: Money | None = None
    keeping: Keeping | None = None


class Receipt(NamedTuple):
    """What a paid answer carries."""

    headers: HeaderLines = ()


class Answered(TollboothError):
    """Raised in place of serving a request that was served before: it gets the same answer, and this receipt."""

    def __init__(self, response: Response, receipt: Receipt) -> None:
        super().__init__("the request was answered before")
        self.response = response
        self.receipt = receipt


CredentialT = TypeVar("CredentialT")


class Settles(Protocol):
    """What becomes of a toll when its request has ended."""

    name: str
    settles_elsewhere: bool
    """Whether `capture` waits for somebody outside, so that it has to be guarded against cancellation and silence."""

    async def hold(self, toll: Toll) -> Receipt:
        """Make sure of the money of a metered toll. Called before the response leaves; `capture` follows at its end.

        Raises:
            CredentialRefused: the money did not come; the response is withheld.
            Unavailable: whether it came cannot be known now; the response is withheld.
        """
        ...

    async def capture(self, toll: Toll) -> Receipt:
        """Earn the toll's ``charge`` and give back what else was promised. Called before the response leaves.

        Raises:
            CredentialRefused: the money did not come; the response is withheld.
            Unavailable: whether it came cannot be known now; the response is withheld.
        """
        ...

    async def void(self, toll: Toll) -> None:
        """Give the toll's money back to its payer."""
        ...


class Rail(Settles, Protocol[CredentialT]):
    """The public extension point for ways of paying."""

    def credential(self, headers: RawHeaders) -> CredentialT | None:
        """This rail's credential among a request's headers, unchecked; None when there is none. No I/O."""
        ...

    async def challenge(self, quote: Quote, presented: CredentialT | None) -> Challenge:
        """Offer a way to pay. ``presented`` is the credential that was just refused, if it was this rail's.

        Raises:
            RailUnavailable: there is no way to pay now; the 402 is made without this rail.
        """
        ...

    async def authorize(self, credential: CredentialT, quote: Quote) -> Authorization:
        """Promise the quote's price out of the money behind a credential, durably.

        Awaits ``quote.admit`` with the name of the payer, if it is there, once the credential is found good and before
        money moves.

        Raises:
            CredentialRefused: the credential is not good, or not good for this much.
            Unavailable: whether it is good cannot be known now; the same credential works later.
            Forbidden: the credential was revoked.
            Answered: the same request was served for the same payment before.
        """
        ...

    async def reconcile(self) -> int:
        """Find out what became of payments that a crash or a lost answer left open; of how many it is known now.

        Raises:
            Unavailable: the ledger's database did not answer.
        """
        ...

    async def aclose(self) -> None:
        """Let go of whoever is asked; the rail may be used again afterwards."""
        ...

    def security_scheme(self) -> dict[str, Any]:
        """The rail's OpenAPI security scheme."""
        ...

    def offer(self, price: Money | None) -> dict[str, Any]:
        """The rail's entry in a route's ``x-payment-info``; ``price`` is None when it depends on the request."""
        ...


def as_text(moment: datetime) -> str:
    """A moment as the bodies of challenges write it (RFC 3339, in UTC, to the second)."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
