"""One counter per rail: the same shop, and how a caller of that rail pays. Every attack is tried on each of them."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from fastapi_tollbooth import Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.settings import LightningSettings, X402Settings
from fastapi_tollbooth.testing import FakeTollbooth
from tests.stub_facilitator import StubFacilitator, stub_facilitator
from tests.x402_payer import PAY_TO, decode, encode, sign

Headers = dict[str, str]

CHEAP, DEAR = "$0.01", "$1.00"
SERVED = "the goods"


class Counter(ABC):
    """A shop that takes payments over one rail.

    ``/goods`` costs a cent, ``/treasure`` a dollar, ``/either?size=big`` a dollar and a cent otherwise. ``runs`` lists
    the handlers that ran.
    """

    name: str
    single_use: bool

    def __init__(self, tollbooth: Tollbooth) -> None:
        self.tollbooth = tollbooth
        self.runs: list[str] = []
        self.fails = False
        self.app = FastAPI()
        tollbooth.install(self.app)
        either = priced(match=[{"where": {"query.size": "big"}, "price": DEAR}], fallback=CHEAP)
        for path, price in (("/goods", priced(CHEAP)), ("/treasure", priced(DEAR)), ("/either", either)):
            self.app.api_route(path, methods=["GET", "POST"], dependencies=[Depends(price)])(self._handler)

        @self.app.get("/stream", dependencies=[Depends(priced(CHEAP))])
        async def stream() -> StreamingResponse:
            self.runs.append("/stream")
            return StreamingResponse(iter([SERVED, SERVED]))

        self.client = TestClient(self.app, raise_server_exceptions=False)

    async def _handler(self, request: Request) -> str:
        self.runs.append(request.url.path)
        if self.fails:
            raise HTTPException(503, "the handler fails")
        return SERVED

    def get(self, path: str, headers: Headers | None = None) -> Any:
        """A request."""
        return self.client.get(path, headers=headers)

    def buy(self, path: str = "/goods") -> Headers:
        """Meet the 402, pay one request of it, and return the credential's headers."""
        return self.pay(self.get(path))

    @abstractmethod
    def pay(self, refused: Any) -> Headers:
        """Pay a 402; the headers of the credential that was bought, good for one such request."""

    @abstractmethod
    def invent(self, refused: Any) -> Headers:
        """A credential that looks right and was not paid for."""


class FakeCounter(Counter):
    """Payments for single requests, which move nothing."""

    name = "fake"
    single_use = True

    def __init__(self) -> None:
        self.fake = FakeTollbooth()
        super().__init__(self.fake)

    def pay(self, refused: Any) -> Headers:
        payment: str = refused.json()["fakePayment"]
        self.fake.rail.pay(payment)
        return {"X-Fake-Payment": payment}

    def invent(self, refused: Any) -> Headers:
        return {"X-Fake-Payment": refused.json()["fakePayment"]}


class L402Counter(Counter):
    """Prepaid credit for one request, over the development node."""

    name = "l402"
    single_use = False

    def __init__(self, folder: Path) -> None:
        settings = TollboothSettings(
            _env_file=None,
            database_url=f"sqlite:///{folder}/l402.db",
            top_up=1,
            btc_usd="100000",
            settlement_wait=0,
            unpaid_rate_limit="off",
        )
        super().__init__(Tollbooth(settings))

    def pay(self, refused: Any) -> Headers:
        offer = refused.json()
        paid = self.client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]}).json()
        return {"Authorization": f"L402 {offer['macaroon']}:{paid['preimage']}"}

    def invent(self, refused: Any) -> Headers:
        return {"Authorization": f"L402 {refused.json()['macaroon']}:{secrets.token_hex(32)}"}


class X402Counter(Counter):
    """Stablecoin payments for single requests, through a facilitator that takes each once."""

    name = "x402"
    single_use = True

    def __init__(self, folder: Path, facilitator: StubFacilitator) -> None:
        self.facilitator = facilitator
        settings = TollboothSettings(
            _env_file=None,
            database_url=f"sqlite:///{folder}/x402.db",
            unpaid_rate_limit="off",
            btc_usd="100000",
            lightning=LightningSettings(backend="none"),
            x402=X402Settings(pay_to=PAY_TO, networks=["base-sepolia"], facilitator_url=facilitator.url),
        )
        super().__init__(Tollbooth(settings))

    def accepted(self, refused: Any) -> dict[str, Any]:
        """What a 402 asks for."""
        found: dict[str, Any] = decode(refused.headers["payment-required"])["accepts"][0]
        return found

    def pay(self, refused: Any) -> Headers:
        return {"PAYMENT-SIGNATURE": encode(sign(self.accepted(refused)))}

    def invent(self, refused: Any) -> Headers:
        return {"PAYMENT-SIGNATURE": encode(sign(self.accepted(refused), validBefore="1"))}


COUNTERS = ("fake", "l402", "x402")


@contextmanager
def counter_of(name: str, folder: Path) -> Iterator[Counter]:
    """A counter of this rail, open until the block ends."""
    with ExitStack() as stack:
        made: Counter
        match name:
            case "fake":
                made = FakeCounter()
            case "l402":
                made = L402Counter(folder)
            case _:
                made = X402Counter(folder, stack.enter_context(stub_facilitator()))
        stack.enter_context(made.client)
        yield made
