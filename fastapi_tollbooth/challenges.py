"""What a request pays with, and the 402 of one that does not: one challenge per rail that can take the money."""

from collections.abc import Sequence
from typing import Any

from fastapi_tollbooth.errors import (
    AmbiguousRequest,
    CredentialRefused,
    PaymentRequired,
    RailUnavailable,
    Refusal,
    TooManyChallenges,
    TooManyRequests,
    Unavailable,
)
from fastapi_tollbooth.rails import Authorization, Rail, RawHeaders
from fastapi_tollbooth.toll import Quote, Toll

NO_CREDENTIAL = CredentialRefused("payment_required", "Pay one of the offers and send the credential that it buys.")


def presented(rails: Sequence[Rail[Any]], headers: RawHeaders) -> tuple[Rail[Any] | None, Any]:
    """The payment credential that a request carries, and the rail that it is for; None twice where there is none.

    Raises:
        AmbiguousRequest: there are credentials of two kinds.
    """
    found: tuple[Rail[Any] | None, Any] = (None, None)
    for rail in rails:
        credential = rail.credential(headers)
        if credential is None:
            continue
        if found[0] is not None:
            raise AmbiguousRequest(
                "ambiguous_credential", "The request carries payment credentials of two kinds. Send one."
            )
        found = rail, credential
    return found


def toll_of(rail: Rail[Any], quote: Quote, authorization: Authorization) -> Toll:
    """The toll of a request whose credential was found good."""
    toll_id, amount, balance, payer, state, caveats, price, keeping = authorization
    # By position, which takes half as long: every paid request makes one.
    return Toll(
        toll_id,
        price or quote.price,
        amount,
        balance,
        payer,
        rail.name,
        quote.route,
        quote.rule,
        quote.tier,
        caveats,
        quote.terms.metered,
        state,
        keeping,
    )


def too_many_invoices(retry_after: int) -> TooManyRequests:
    """What a caller is told who makes the service make invoices and pays none."""
    detail = "Pay one of the invoices you have, or wait before you ask for more."
    return TooManyRequests("too_many_invoices", detail, retry_after=retry_after)


async def payment_required(
    rails: Sequence[Rail[Any]],
    quote: Quote,
    why: CredentialRefused,
    refusing: Rail[Any] | None = None,
    credential: Any = None,
) -> Refusal:
    """What a caller who has not paid this quote is told: the 402; or a 429 or 503 while there is no way to pay.

    Args:
        rails: The ways to pay, in the order in which they are offered.
        quote: What the request costs.
        why: Why the request is not served as it came.
        refusing: The rail that refused its credential, if one did.
        credential: What it refused.
    """
    challenges, waits = [], list[int]()
    for rail in rails:
        try:
            challenges.append(await rail.challenge(quote, credential if rail is refusing else None))
        except TooManyChallenges as limited:
            waits.append(limited.retry_after)
        except RailUnavailable:
            continue
    if not challenges and waits:
        return too_many_invoices(min(waits))
    if not challenges:
        return Unavailable("no_rail_available", "No way to pay can be offered at the moment. Come again later.")
    price = str(quote.price)
    members: dict[str, Any] = {"price": price, "priceRule": quote.rule, **why.members}
    if quote.tiers is not None:
        members["tiers"] = {tier: str(price) for tier, price in quote.tiers.items()}
    for challenge in challenges:
        members |= challenge.members
    headers = [*why.headers, *(line for challenge in challenges for line in challenge.headers)]
    detail = f"This request costs {price}. {why.detail}"
    return PaymentRequired(why.reason, detail, headers=headers, members=members)
