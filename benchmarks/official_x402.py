"""The official FastAPI middleware for x402, on the same routes. Runs in an environment of its own, without us."""

import os

from fastapi import FastAPI
from x402 import x402ResourceServer  # type: ignore[import-not-found]
from x402.http import FacilitatorConfig, HTTPFacilitatorClient  # type: ignore[import-not-found]
from x402.http.middleware.fastapi import payment_middleware  # type: ignore[import-not-found]
from x402.mechanisms.evm.exact.register import register_exact_evm_server  # type: ignore[import-not-found]


def official() -> FastAPI:
    """One route free and one priced, as the middleware's documentation has it."""
    facilitator = HTTPFacilitatorClient(FacilitatorConfig(url=os.environ["FACILITATOR_URL"]))
    server = register_exact_evm_server(x402ResourceServer(facilitator))
    accepts = {"scheme": "exact", "network": "eip155:84532", "payTo": os.environ["PAY_TO"], "price": "$0.01"}
    app = FastAPI()
    app.middleware("http")(payment_middleware({"GET /paid": {"accepts": accepts}}, server))

    async def weather() -> dict[str, str]:
        return {"city": "Lisbon", "sky": "clear"}

    app.get("/free")(weather)
    app.get("/paid")(weather)
    return app
