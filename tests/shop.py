"""A shop with one priced route, for tests of what requests are asked to pay."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth import Toll
from fastapi_tollbooth.testing import FakeTollbooth, PayingClient

Handler = Any


class Shop:
    """One priced route that echoes nothing and counts its runs, and what callers are asked for."""

    def __init__(
        self, price: Any, *, method: str = "POST", path: str = "/x", handler: Handler = None, **app: Any
    ) -> None:
        self.runs = 0
        self.tolls: list[Toll] = []
        self.tollbooth = FakeTollbooth()
        self.app = FastAPI(**app)
        self.tollbooth.install(self.app)

        async def echo(toll: Annotated[Toll, Depends(price)]) -> str:
            self.runs += 1
            self.tolls.append(toll)
            return "ok"

        dependencies = [Depends(price)] if handler else []
        self.app.api_route(path, methods=[method], dependencies=dependencies)(handler or echo)
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def asked(self, method: str = "POST", url: str = "/x", **request: Any) -> tuple[str, str]:
        """The price and the rule that an unpaid request is asked for, or its status and reason."""
        response = self.client.request(method, url, **request)
        assert self.runs == 0
        body = response.json()
        if response.status_code == 402:
            return body["price"], body["priceRule"]
        return str(response.status_code), body.get("reason", "")

    def pay(self, method: str = "POST", url: str = "/x", **request: Any) -> Any:
        """The answer to a request that pays."""
        with PayingClient(self.app, self.tollbooth, raise_server_exceptions=False) as client:
            return client.request(method, url, **request)
