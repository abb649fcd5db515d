"""The vendors' interfaces, as far as a service that receives money uses them."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from fastapi_tollbooth.lightning import LightningBackend
from fastapi_tollbooth.lightning.cln import ClnNode
from fastapi_tollbooth.lightning.lnbits import LnbitsNode
from fastapi_tollbooth.lightning.lnd import LndNode
from fastapi_tollbooth.lightning.phoenixd import PhoenixdNode
from fastapi_tollbooth.settings import LightningSettings
from tests.nodes import KEY, Book, Written


class Vendor(NamedTuple):
    """A kind of node: its setting, its server, and our client."""

    backend: str
    app: Callable[[Book], Starlette]
    client: Callable[[LightningSettings], LightningBackend]
    granularity_msat: int


# ── phoenixd ──────────────────────────────────────────────────────────────────────────────────────────────────────────
# https://phoenix.acinq.co/server/api, and what phoenixd 0.6 answers:
# https://github.com/ACINQ/phoenixd/blob/master/src/commonMain/kotlin/fr/acinq/phoenixd/json/JsonSerializers.kt
# https://github.com/ACINQ/phoenixd/blob/master/src/commonMain/kotlin/fr/acinq/phoenixd/Api.kt


def phoenixd(book: Book) -> Starlette:
    """Basic authentication with any user, forms in, JSON out, plain text for errors."""

    def allowed(request: Request) -> bool:
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        return scheme == "Basic" and base64.b64decode(credentials).decode().partition(":")[2] == KEY

    async def create(request: Request) -> Response:
        if not allowed(request):
            return PlainTextResponse("Invalid authentication (use basic auth with the http password)", 401)
        form = dict(parse_qsl((await request.body()).decode(), strict_parsing=True))
        if not form["amountSat"].isdigit() or not 0 < len(form.get("description", "")) <= 128:
            return PlainTextResponse("Request parameter is invalid", 400)
        sats = int(form["amountSat"])
        written = book.write(sats * 1_000, form["description"], int(form["expirySeconds"]), form.get("externalId"))
        return JSONResponse({"amountSat": sats, "paymentHash": written.payment_hash.hex(), "serialized": written.text})

    async def incoming(request: Request) -> Response:
        if not allowed(request):
            return PlainTextResponse("Invalid authentication (use basic auth with the http password)", 401)
        written = book.get(request.path_params["hash"])
        if written is None:
            return PlainTextResponse("Unknown endpoint (check api doc)", 404)
        answer: dict[str, Any] = {
            "type": "incoming_payment",
            "subType": "lightning",
            "paymentHash": written.payment_hash.hex(),
            # Told while unpaid too.
            "preimage": written.preimage.hex(),
            "description": written.description,
            "invoice": written.text,
            "isPaid": written.paid_at is not None,
            "isExpired": written.expired,
            "requestedSat": written.amount_msat // 1_000,
            "receivedSat": 0 if written.paid_at is None else written.amount_msat // 1_000,
            "fees": 0,
            "createdAt": written.created_at * 1_000,
            "expiresAt": (written.created_at + written.expiry) * 1_000,
        }
        if written.external_id:
            answer["externalId"] = written.external_id
        if written.paid_at is not None:
            answer["completedAt"] = int(written.paid_at * 1_000)
        return JSONResponse(answer)

    return Starlette(
        routes=[
            Route("/createinvoice", create, methods=["POST"]),
            Route("/payments/incoming/{hash}", incoming, methods=["GET"]),
        ]
    )


# ── LND ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
# https://lightning.engineering/api-docs/api/lnd/lightning/add-invoice, .../lookup-invoice; 64-bit numbers are text.
# Errors: https://github.com/lightningnetwork/lnd/issues/4135 and /5510 (unknown invoices: 500 with code 2, later 404
# with code 5).


def lnd(book: Book) -> Starlette:
    """A macaroon in a header, JSON in and out."""

    def allowed(request: Request) -> bool:
        return request.headers.get("grpc-metadata-macaroon") == KEY

    denied = JSONResponse({"code": 16, "message": "verification failed: signature mismatch", "details": []}, 401)

    async def create(request: Request) -> Response:
        if not allowed(request):
            return denied
        body = await request.json()
        assert isinstance(body["value_msat"], str)
        assert isinstance(body["expiry"], str)
        written = book.write(int(body["value_msat"]), body["memo"], int(body["expiry"]))
        return JSONResponse(
            {
                "r_hash": base64.b64encode(written.payment_hash).decode(),
                "payment_request": written.text,
                "add_index": str(len(book.invoices)),
                "payment_addr": base64.b64encode(b"\x11" * 32).decode(),
            }
        )

    async def lookup(request: Request) -> Response:
        if not allowed(request):
            return denied
        written = book.get(request.path_params["hash"])
        if written is None:
            if book.invoices:
                return JSONResponse({"code": 5, "message": "unable to locate invoice", "details": []}, 404)
            message = "there are no existing invoices"
            return JSONResponse({"error": message, "message": message, "code": 2}, 500)
        paid = written.paid_at is not None
        state = "SETTLED" if paid else "CANCELED" if written.expired or written.canceled else "OPEN"
        return JSONResponse(
            {
                "memo": written.description,
                "r_preimage": base64.b64encode(written.preimage).decode(),
                "r_hash": base64.b64encode(written.payment_hash).decode(),
                "value": str(written.amount_msat // 1_000),
                "value_msat": str(written.amount_msat),
                "settled": paid,
                "creation_date": str(written.created_at),
                "settle_date": str(int(written.paid_at or 0)),
                "payment_request": written.text,
                "description_hash": None,
                "expiry": str(written.expiry),
                "fallback_addr": "",
                "cltv_expiry": "80",
                "private": True,
                "add_index": "1",
                "settle_index": "1" if paid else "0",
                "amt_paid": str(written.amount_msat if paid else 0),
                "amt_paid_sat": str(written.amount_msat // 1_000 if paid else 0),
                "amt_paid_msat": str(written.amount_msat if paid else 0),
                "state": state,
                "htlcs": [],
                "is_keysend": False,
            }
        )

    return Starlette(
        routes=[
            Route("/v1/invoices", create, methods=["POST"]),
            Route("/v1/invoice/{hash}", lookup, methods=["GET"]),
        ]
    )


# ── Core Lightning ────────────────────────────────────────────────────────────────────────────────────────────────────
# https://github.com/ElementsProject/lightning/blob/master/doc/schemas/invoice.json and listinvoices.json; 201 and
# errors: https://github.com/ElementsProject/lightning/blob/master/plugins/rest-plugin/src/handlers.rs


def cln(book: Book) -> Starlette:
    """A rune in a header, JSON in and out, 201 for what worked."""

    def allowed(request: Request) -> bool:
        return request.headers.get("rune") == KEY

    denied = JSONResponse({"code": 1501, "message": "Not authorized: Not derived from master"}, 401)

    async def invoice(request: Request) -> Response:
        if not allowed(request):
            return denied
        body = await request.json()
        assert set(body) == {"amount_msat", "label", "description", "expiry"}
        if any(each.external_id == body["label"] for each in book.invoices.values()):
            return JSONResponse({"code": 900, "message": "Duplicate label", "data": {}}, 500)
        written = book.write(body["amount_msat"], body["description"], body["expiry"], body["label"])
        return JSONResponse(
            {
                "payment_hash": written.payment_hash.hex(),
                "expires_at": written.created_at + written.expiry,
                "bolt11": written.text,
                "payment_secret": "11" * 32,
                "created_index": len(book.invoices),
                "warning_capacity": "Insufficient incoming channel capacity to pay invoice",
            },
            201,
        )

    def shape(written: Written) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "label": written.external_id,
            "bolt11": written.text,
            "payment_hash": written.payment_hash.hex(),
            "amount_msat": written.amount_msat,
            "status": "expired" if written.expired else "unpaid",
            "description": written.description,
            "expires_at": written.created_at + written.expiry,
            "created_index": 1,
        }
        if written.paid_at is not None:
            answer |= {
                "status": "paid",
                "pay_index": 1,
                "amount_received_msat": written.amount_msat,
                "paid_at": int(written.paid_at),
                "payment_preimage": written.preimage.hex(),
                "updated_index": 1,
            }
        return answer

    async def listinvoices(request: Request) -> Response:
        if not allowed(request):
            return denied
        written = book.get((await request.json())["payment_hash"])
        return JSONResponse({"invoices": [shape(written)] if written else []}, 201)

    return Starlette(
        routes=[
            Route("/v1/invoice", invoice, methods=["POST"]),
            Route("/v1/listinvoices", listinvoices, methods=["POST"]),
        ]
    )


# ── LNbits ────────────────────────────────────────────────────────────────────────────────────────────────────────────
# As LNbits 1.6.2 answers; `tests/peers/test_lnbits_peer.py` runs the same tests against the real one.


def lnbits(book: Book) -> Starlette:
    """A key in a header, JSON in and out; an amount of half a satoshi gives an invoice without any."""

    async def payments(request: Request) -> Response:
        if request.headers.get("x-api-key") != KEY:
            return JSONResponse({"detail": "Wallet not found."}, 404)
        body = json.loads(await request.body())
        written = book.write(int(body["amount"]) * 1_000, body["memo"], body["expiry"], body.get("external_id"))
        return JSONResponse(shape(written) | {"preimage": written.preimage.hex(), "status": "pending"}, 201)

    def shape(written: Written) -> dict[str, Any]:
        paid = written.paid_at is not None
        return {
            "checking_id": f"internal_{written.payment_hash.hex()}",
            "payment_hash": written.payment_hash.hex(),
            "wallet_id": "0" * 32,
            "amount": written.amount_msat,
            "fee": 0,
            "bolt11": written.text,
            "payment_request": written.text,
            "status": "success" if paid else "failed" if written.expired else "pending",
            "memo": written.description,
            "expiry": _iso(written.created_at + written.expiry),
            "preimage": written.preimage.hex(),
            "time": _iso(written.created_at),
            "created_at": _iso(written.created_at),
            "updated_at": _iso(written.paid_at or written.created_at),
            "extra": {},
            "external_id": written.external_id,
        }

    async def payment(request: Request) -> Response:
        written = book.get(request.path_params["hash"])
        if written is None:
            return JSONResponse({"detail": "Payment does not exist."}, 404)
        details = shape(written)
        paid = written.paid_at is not None
        answer = {"paid": paid, "status": details["status"], "preimage": written.preimage.hex() if paid else None}
        if request.headers.get("x-api-key") == KEY:
            answer["details"] = details
        return JSONResponse(answer)

    return Starlette(
        routes=[
            Route("/api/v1/payments", payments, methods=["POST"]),
            Route("/api/v1/payments/{hash}", payment, methods=["GET"]),
        ]
    )


def _iso(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + "+00:00"


REST_VENDORS = [
    Vendor("phoenixd", phoenixd, PhoenixdNode, 1_000),
    Vendor("lnd", lnd, LndNode, 1),
    Vendor("cln", cln, ClnNode, 1),
    Vendor("lnbits", lnbits, LnbitsNode, 1_000),
]
