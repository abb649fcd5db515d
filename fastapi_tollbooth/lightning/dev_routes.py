"""The development node over HTTP: ``POST /tollbooth/dev/pay`` plays the caller's wallet."""

import json

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fastapi_tollbooth.errors import Unavailable
from fastapi_tollbooth.lightning.dev import CannotPay, DevNode
from fastapi_tollbooth.own_routes import NO_STORE, body_of
from fastapi_tollbooth.responses import refusal_response

MAX_BODY = 16_384
PAY_PATH = "/tollbooth/dev/pay"


def dev_routes(node: DevNode) -> list[Route]:
    """The node's routes."""

    async def pay(request: Request) -> Response:
        """Pay an invoice: ``{"invoice": "lnbcrt..."}`` gives ``{"payment_hash": "...", "preimage": "..."}``."""
        body = await body_of(request, MAX_BODY)
        if body is None:
            return _refuse("the body is too large", 413)
        try:
            invoice = json.loads(body)["invoice"]
        except (ValueError, KeyError, TypeError, RecursionError):
            invoice = None
        if not isinstance(invoice, str):
            return _refuse('send {"invoice": "lnbcrt..."}', 400)
        try:
            paid = await node.pay(invoice)
        except CannotPay as error:
            return _refuse(str(error), 400)
        except Unavailable as refusal:
            return refusal_response(request, refusal)
        return JSONResponse({"payment_hash": paid.payment_hash, "preimage": paid.preimage}, headers=NO_STORE)

    return [Route(PAY_PATH, pay, methods=["POST"])]


def _refuse(detail: str, status: int) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers=NO_STORE)
