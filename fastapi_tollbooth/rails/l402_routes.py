"""What bearers and buyers of credit ask beside priced requests: their balance, invoices, and what became of one."""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fastapi_tollbooth.challenges import too_many_invoices
from fastapi_tollbooth.errors import (
    AmbiguousRequest,
    CredentialRefused,
    NotFound,
    RailUnavailable,
    Refusal,
    TooManyChallenges,
    Unauthorized,
    Unavailable,
)
from fastapi_tollbooth.own_routes import NO_STORE, body_of
from fastapi_tollbooth.rails import Rail
from fastapi_tollbooth.rails.l402 import L402Rail
from fastapi_tollbooth.rails.l402_credential import L402Credential
from fastapi_tollbooth.rails.sales import INVOICES_PATH
from fastapi_tollbooth.responses import refusal_response

T = TypeVar("T")

MAX_BODY = 16_384
BALANCE_PATH = "/tollbooth/balance"

ClientOf = Callable[[HTTPConnection], Awaitable[str]]
Answer = Callable[[Request], Awaitable[dict[str, Any]]]


def l402_routes(rails: Sequence[Rail[Any]], client_of: ClientOf) -> list[Route]:
    """The routes of the rail that keeps credit, if there is one. ``client_of`` names callers: invoices are counted."""
    rail = next((rail for rail in rails if isinstance(rail, L402Rail)), None)
    if rail is None:
        return []

    async def balance(request: Request) -> dict[str, Any]:
        """What is left of the credit that a credential opens: ``{"balance": "$0.09", ...}``."""
        credential = rail.credential(request.scope["headers"])
        if credential is None:
            raise Unauthorized("credential_missing", "Send the credential whose balance you ask for.")
        credit = await _or_unauthorized(rail.credit(credential, request))
        expires_at = None if credit.expires_at is None else credit.expires_at.isoformat(timespec="seconds")
        return {
            "balance": str(credit.balance),
            "amount": credit.balance.amount,
            "asset": credit.balance.asset,
            "expiresAt": expires_at,
        }

    async def invoice(request: Request) -> dict[str, Any]:
        """Ask for credit: ``{"bundle": "10000 sat"}`` or ``{}``; with a credential, for more in its account."""
        bundle = await _bundle_of(request)
        credential: L402Credential | None = rail.credential(request.scope["headers"])
        try:
            return await _or_unauthorized(rail.invoice(request, await client_of(request), bundle, credential))
        except TooManyChallenges as limited:
            raise too_many_invoices(limited.retry_after) from limited
        except RailUnavailable as error:
            raise Unavailable("no_rail_available", "No invoice can be made at the moment. Come again later.") from error

    async def status(request: Request) -> dict[str, Any]:
        """What became of an invoice: ``{"status": "pending"}``, ``settled`` or ``expired``. Never its preimage."""
        payment_hash = request.path_params["payment_hash"]
        state = await rail.status(payment_hash, request.query_params.get("token", ""))
        if state is None:
            raise NotFound("unknown_invoice", "There is no such invoice, or the token does not belong to it.")
        return {"status": state, "paymentHash": payment_hash}

    return [
        Route(BALANCE_PATH, _answered(balance, 200), methods=["GET"]),
        Route(INVOICES_PATH, _answered(invoice, 201), methods=["POST"]),
        Route(f"{INVOICES_PATH}/{{payment_hash}}", _answered(status, 200), methods=["GET"]),
    ]


def _answered(answer: Answer, status: int) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return JSONResponse(await answer(request), status, headers=NO_STORE)
        except Refusal as refusal:
            return refusal_response(request, refusal)

    return endpoint


async def _or_unauthorized(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except CredentialRefused as refused:
        # No challenge: what is asked here costs nothing, and automatic payers must not pay for it.
        raise Unauthorized(refused.reason, refused.detail, members=refused.members) from refused


async def _bundle_of(request: Request) -> str | None:
    body = await body_of(request, MAX_BODY)
    if body is None:
        raise AmbiguousRequest("unreadable_body", "The body is too large.")
    try:
        asked = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        asked = None
    bundle = asked.get("bundle") if isinstance(asked, dict) else 0
    if bundle is not None and not isinstance(bundle, str):
        raise AmbiguousRequest("unreadable_body", 'Send {"bundle": "10000 sat"}, or {}.')
    return bundle
