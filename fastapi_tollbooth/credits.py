"""Credit for stablecoins: ``POST /tollbooth/credits`` turns one x402 payment into a credential for many requests.

The payment's own account in the ledger keeps its money, and the credential spends from it on every route: one transfer
on chain, hundreds of calls.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message

from fastapi_tollbooth.challenges import NO_CREDENTIAL, payment_required, toll_of
from fastapi_tollbooth.errors import AmbiguousRequest, ConfigurationError, CredentialRefused, Refusal
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.money import Asset, Money
from fastapi_tollbooth.own_routes import NO_STORE, body_of
from fastapi_tollbooth.rails import Answered, Rail, as_text
from fastapi_tollbooth.rails.credit import mint_credit
from fastapi_tollbooth.rails.owner_caveats import OwnerCaveats, minted_for
from fastapi_tollbooth.rails.x402.rail import X402Rail, account_of
from fastapi_tollbooth.responses import answered_response, refusal_response
from fastapi_tollbooth.settings import TollboothSettings
from fastapi_tollbooth.terms import Terms
from fastapi_tollbooth.toll import Quote
from fastapi_tollbooth.visit import visit_of

PATH = "/tollbooth/credits"
MAX_BODY = 1_024
_HELP = 'Say how much credit you want: {"amount": "$5"}.'


def credit_routes(
    settings: TollboothSettings,
    keys: Callable[[], KeyRing],
    rails: Sequence[Rail[Any]],
    caveats: OwnerCaveats,
    of_payers: Callable[[Quote], Quote],
) -> list[Route]:
    """The route that sells credit, where there is a rail that brings stablecoins and one that spends credit.

    A plain Starlette route, so that a price on the whole application does not cover it. ``of_payers`` adds to a quote
    what is asked about whoever pays.
    """
    by_name = {rail.name: rail for rail in rails}
    stablecoins = by_name.get("x402")
    if not isinstance(stablecoins, X402Rail) or "l402" not in by_name:
        return []

    async def sell(request: Request) -> Response:
        """Sell credit: ``{"amount": "$5"}``, paid like any priced request, gives a credential for that much."""
        try:
            body = await body_of(request, MAX_BODY)
            amount = _amount(body)
            terms = Terms(description=f"{amount} of credit", buys_credit=True)
            quote = Quote(amount, PATH, "", terms=terms, connection=_with_body(request, body))
            credential = stablecoins.credential(request.scope["headers"])
            if credential is None:
                raise await payment_required([stablecoins], quote, NO_CREDENTIAL)
            try:
                authorization = await stablecoins.authorize(credential, of_payers(quote))
            except CredentialRefused as refused:
                raise await payment_required([stablecoins], quote, refused, stablecoins, credential) from refused
            visit_of(request).toll = toll_of(stablecoins, quote, authorization)
        except Refusal as refusal:
            return refusal_response(request, refusal)
        except Answered as answered:
            return answered_response(answered)
        # The answer leaves when the money has come: our layer around the request settles first.
        owned = dict(await minted_for(caveats, request)) if caveats else {}
        return JSONResponse(_credential(settings, keys(), account_of(authorization), amount, owned), headers=NO_STORE)

    return [Route(PATH, sell, methods=["POST"])]


def _credential(
    settings: TollboothSettings, keys: KeyRing, account: str, amount: Money, caveats: Mapping[str, str]
) -> dict[str, Any]:
    valid_until = datetime.now(UTC) + timedelta(days=settings.credit_lifetime_days)
    minted = mint_credit(keys, settings.service, account, amount.asset, valid_until, caveats)
    return {
        "scheme": "L402",
        "authorization": minted.authorization,
        "macaroon": minted.macaroon,
        "preimage": minted.preimage,
        "credit": str(amount),
        "validUntil": as_text(valid_until),
    }


def _with_body(request: Request, body: bytes | None) -> Request:
    """The request as if nobody had read it."""

    async def _again() -> Message:
        return {"type": "http.request", "body": body or b"", "more_body": False}

    return Request(request.scope, _again)


def _amount(body: bytes | None) -> Money:
    if body is None:
        raise AmbiguousRequest("invalid_amount", _HELP)
    try:
        amount = Money.parse(json.loads(body)["amount"])
    except (ValueError, KeyError, TypeError, RecursionError, ConfigurationError):
        raise AmbiguousRequest("invalid_amount", _HELP) from None
    if amount.is_zero or amount.asset is not Asset.USD:
        raise AmbiguousRequest("invalid_amount", _HELP)
    return amount
