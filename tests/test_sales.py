"""What is sold to whom, over the whole way: 402, payment, credit, more credit."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection

from fastapi_tollbooth import ConfigurationError, Money, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.lightning.dev import DevNode
from fastapi_tollbooth.rails.macaroon import narrow
from fastapi_tollbooth.rates import FixedRate
from tests.wallet import buy, pay

Serve = Callable[..., TestClient]
BUNDLES = [{"pay": "10000 sat", "get": "11000 sat"}, {"pay": "$50", "get": "$60"}, {"pay": "2 sat", "get": "3 sat"}]


def made(tmp_path: Path, **settings: Any) -> Tollbooth:
    url = f"sqlite:///{tmp_path}/tollbooth.db"
    return Tollbooth(TollboothSettings(_env_file=None, database_url=url, **{"top_up": 2, **settings}))


def shop(booth: Tollbooth) -> FastAPI:
    app = FastAPI()
    booth.install(app)

    @app.api_route("/cent", methods=["GET", "HEAD", "OPTIONS"], dependencies=[Depends(priced("$0.01"))])
    async def cent() -> str:
        return "ok"

    @app.get("/sats", dependencies=[Depends(priced("7 sat"))])
    async def sats() -> str:
        return "ok"

    @app.get("/bulk", dependencies=[Depends(priced("$0.01", top_up="$3"))])
    async def bulk() -> str:
        return "ok"

    @app.get("/any/{n}", dependencies=[Depends(priced(lambda params: f"{params['n']} sat"))])
    async def any_price(n: int) -> str:
        return "ok"

    return app


def balance(client: TestClient, credential: dict[str, str]) -> str:
    answer = client.get("/tollbooth/balance", headers=credential)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["balance"])


@pytest.fixture
def invoices(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The amounts of all invoices that the development node makes."""
    amounts: list[int] = []
    original = DevNode.create_invoice

    async def counted(node: DevNode, amount_msat: int, *rest: Any, **more: Any) -> Any:
        amounts.append(amount_msat)
        return await original(node, amount_msat, *rest, **more)

    monkeypatch.setattr(DevNode, "create_invoice", counted)
    return amounts


# ── what a payment buys ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_402_lists_the_bundles_that_cover_the_price(tmp_path: Path, serve: Serve) -> None:
    client = serve(shop(made(tmp_path, bundles=BUNDLES)))
    assert client.get("/sats").json()["bundles"] == [
        {"pay": "10000 sat", "get": "11000 sat", "amountSats": 10_000},
        {"pay": "$50.00", "get": "$60.00", "amountSats": 50_000},
    ]
    assert client.get("/any/3").json()["bundles"][-1]["pay"] == "2 sat"


def test_a_caller_chooses_a_bundle_with_a_header(tmp_path: Path, serve: Serve) -> None:
    client = serve(shop(made(tmp_path, bundles=BUNDLES)))
    offer = client.get("/sats", headers={"X-Toll-Bundle": "10000 sat"}).json()
    assert (offer["amountSats"], offer["credential"]["credit"]) == (10_000, "11000 sat")
    credential = pay(client, offer)
    assert client.get("/sats", headers=credential).headers["x-credit-balance"] == "10993 sat"
    offer = client.get("/cent", headers={"X-Toll-Bundle": "$50"}).json()
    assert (offer["amountSats"], offer["credential"]["credit"]) == (50_000, "$60.00")


@pytest.mark.parametrize("choice", ["5000 sat", "many", "10000", ""])
def test_a_bundle_that_is_not_offered_is_refused(
    tmp_path: Path, serve: Serve, choice: str, invoices: list[int]
) -> None:
    refused = serve(shop(made(tmp_path, bundles=BUNDLES))).get("/sats", headers={"X-Toll-Bundle": choice})
    assert (refused.status_code, refused.json()["reason"]) == (400, "unknown_bundle")
    assert invoices == []


def test_a_bundle_that_does_not_cover_the_price_is_never_sold_for_it(
    tmp_path: Path, serve: Serve, invoices: list[int]
) -> None:
    refused = serve(shop(made(tmp_path, bundles=BUNDLES))).get("/sats", headers={"X-Toll-Bundle": "2 sat"})
    assert (refused.status_code, refused.json()["reason"]) == (400, "unknown_bundle")
    assert invoices == []


def test_a_route_may_sell_in_other_portions_than_the_service(tmp_path: Path, serve: Serve) -> None:
    client = serve(shop(made(tmp_path)))
    assert client.get("/cent").json()["credential"]["credit"] == "$0.02"
    assert client.get("/bulk").json()["credential"]["credit"] == "$3.00"
    assert client.get("/bulk").json()["credential"]["requests"] == 300


@pytest.mark.parametrize("top_up", ["", "$0", 0, -1, True, 1.5, "ten"])
def test_a_top_up_must_buy_something(top_up: Any) -> None:
    with pytest.raises(ConfigurationError):
        priced("$0.01", top_up=top_up)


def test_the_least_that_an_invoice_asks(tmp_path: Path, serve: Serve) -> None:
    offer = serve(shop(made(tmp_path, min_invoice="100 sat"))).get("/sats").json()
    assert (offer["amountSats"], offer["credential"]["credit"]) == (100, "98 sat")


# ── more credit for the same account ──────────────────────────────────────────────────────────────────────────────────


def test_credit_that_does_not_suffice_is_topped_up_and_nothing_is_left_behind(tmp_path: Path, serve: Serve) -> None:
    client = serve(shop(made(tmp_path)))
    old = buy(client, "/sats")
    for _ in range(2):
        assert client.get("/sats", headers=old).status_code == 200
    offer = client.get("/sats", headers=old).json()
    assert (offer["reason"], offer["credential"]["topsUp"]) == ("insufficient_credit", True)
    new = pay(client, offer)
    assert client.get("/sats", headers=new).headers["x-credit-balance"] == "7 sat"
    assert client.get("/sats", headers=old).headers["x-credit-balance"] == "0 sat"
    assert client.get("/sats", headers=new).status_code == 402


def test_what_is_left_of_the_old_credit_counts(tmp_path: Path, serve: Serve) -> None:
    client = serve(shop(made(tmp_path)))
    credential = buy(client, "/any/10")
    assert client.get("/sats", headers=credential).headers["x-credit-balance"] == "13 sat"
    offer = client.get("/any/14", headers=credential).json()
    new = pay(client, offer)
    assert balance(client, new) == balance(client, credential) == "41 sat"


def test_a_top_up_is_credited_once_whoever_asks_and_however_often(tmp_path: Path, serve: Serve) -> None:
    booth = made(tmp_path)
    client = serve(shop(booth))
    old = buy(client, "/sats")
    assert balance(client, old) == "14 sat"
    offer = client.post("/tollbooth/invoices", json={}, headers=old)
    assert offer.status_code == 400  # a count of requests buys nothing without a price
    for _ in range(2):
        client.get("/sats", headers=old)
    offer = client.get("/sats", headers=old).json()
    new = pay(client, offer)
    for _ in range(3):
        assert client.get(offer["statusUrl"]).json()["status"] == "settled"
        assert balance(client, new) == balance(client, old) == "14 sat"
    again = serve(shop(made(tmp_path)))  # a restart, or another worker
    for credential in (new, old, new):
        assert balance(again, credential) == "14 sat"


@pytest.mark.anyio
async def test_first_uses_of_a_top_up_that_race_credit_it_once(tmp_path: Path) -> None:
    booth = made(tmp_path, top_up=4)
    others = [made(tmp_path, top_up=4) for _ in range(3)]
    clients = [
        httpx.AsyncClient(transport=httpx.ASGITransport(shop(each)), base_url="http://t") for each in [booth, *others]
    ]
    client = clients[0]

    async def pay_for(offer: dict[str, Any]) -> dict[str, str]:
        paid = (await client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]})).json()
        return {"Authorization": f"L402 {offer['macaroon']}:{paid['preimage']}"}

    old = await pay_for((await client.get("/sats")).json())
    for _ in range(4):
        assert (await client.get("/sats", headers=old)).status_code == 200
    new = await pay_for((await client.get("/sats", headers=old)).json())
    answers = await asyncio.gather(
        *(clients[n % 4].get("/sats", headers=(old, new)[n // 4 % 2]) for n in range(64)), return_exceptions=True
    )
    served = sum(isinstance(answer, httpx.Response) and answer.status_code == 200 for answer in answers)
    # Those who come with the old credential before the new one is seen are refused; nobody gets more than was paid.
    left = int((await client.get("/tollbooth/balance", headers=new)).json()["amount"])
    assert served * 7_000 + left == 28_000
    for each in clients:
        await each.aclose()
    for booth_ in [booth, *others]:
        await booth_.close()


def test_a_credential_in_another_asset_is_topped_up_in_its_own(tmp_path: Path, serve: Serve) -> None:
    client = serve(shop(made(tmp_path)))
    credential = buy(client, "/sats")
    for _ in range(2):
        client.get("/sats", headers=credential)
    offer = client.get("/cent", headers=credential).json()
    assert (offer["credential"]["credit"], offer["credential"]["topsUp"]) == ("20 sat", True)
    new = pay(client, offer)
    assert client.get("/cent", headers=new).headers["x-credit-balance"] == "10 sat"


def test_a_narrowed_credential_cannot_buy_its_way_out(tmp_path: Path, serve: Serve) -> None:
    client = serve(shop(made(tmp_path)))
    credential = buy(client, "/sats")
    assert balance(client, credential) == "14 sat"
    macaroon, preimage = credential["Authorization"].removeprefix("L402 ").split(":")
    narrowed = {"Authorization": f"L402 {narrow(macaroon, 'tollbooth_capabilities=/sats')}:{preimage}"}
    assert client.get("/sats", headers=narrowed).status_code == 200
    refused = client.get("/cent", headers=narrowed).json()
    assert (refused["reason"], refused["credential"]["topsUp"]) == ("wrong_route", False)
    assert (
        client.get("/any/100", headers={"Authorization": narrowed["Authorization"]}).json()["credential"]["topsUp"]
        is False
    )
    assert client.post("/tollbooth/invoices", headers=narrowed).json()["reason"] == "cannot_top_up"
    assert balance(client, pay(client, refused)) == "$0.02"


def test_a_credential_with_other_conditions_is_not_topped_up(tmp_path: Path, serve: Serve) -> None:
    booth = made(tmp_path)

    @booth.caveat("region", mint=lambda request: request.headers.get("x-region"))
    def region(value: str, request: HTTPConnection) -> bool:
        return value == request.headers.get("x-region")

    client = serve(shop(booth))
    eu = {"x-region": "eu"}
    credential = {**pay(client, client.get("/sats", headers=eu).json()), **eu}
    for _ in range(2):
        assert client.get("/sats", headers=credential).status_code == 200
    assert client.get("/sats", headers=credential).json()["credential"]["topsUp"] is True
    moved = client.get("/sats", headers={**credential, "x-region": "us"}).json()
    assert (moved["reason"], moved["credential"]["topsUp"]) == ("caveat_not_met", False)
    new = pay(client, client.get("/sats", headers=credential).json())
    assert client.get("/sats", headers={**new, "x-region": "us"}).json()["reason"] == "caveat_not_met"
    assert client.get("/sats", headers={**new, **eu}).status_code == 200


def test_nobody_is_offered_to_pay_into_somebody_else_s_account(tmp_path: Path, serve: Serve) -> None:
    client = serve(shop(made(tmp_path)))
    first, second = buy(client, "/sats"), buy(client, "/sats")
    offers = [client.get("/sats").json()]
    for credential in (first, second):
        for _ in range(2):
            assert client.get("/sats", headers=credential).status_code == 200
        offers.append(client.get("/sats", headers=credential).json())
    offers.append(client.get("/sats").json())
    assert len({offer["paymentHash"] for offer in offers}) == 3
    assert [offer["credential"]["topsUp"] for offer in offers] == [False, True, True, False]
    pay(client, offers[1])
    assert client.get(offers[1]["statusUrl"]).json()["status"] == "settled"
    assert [balance(client, credential) for credential in (first, second)] == ["14 sat", "0 sat"]


def test_a_forged_or_unpaid_credential_tops_nothing_up(tmp_path: Path, serve: Serve) -> None:
    client = serve(shop(made(tmp_path)))
    credential = buy(client, "/sats")
    macaroon, preimage = credential["Authorization"].removeprefix("L402 ").split(":")
    for line in (f"L402 {macaroon[:-8]}AAAAAAA=:{preimage}", f"L402 {macaroon}:{'0' * 64}", "L402 nonsense"):
        offer = client.get("/sats", headers={"Authorization": line}).json()
        assert offer["credential"]["topsUp"] is False


# ── the rate ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_rate_dollars_are_not_offered_over_lightning_and_a_waiting_credential_gets_503(
    tmp_path: Path, serve: Serve
) -> None:
    url = f"sqlite:///{tmp_path}/tollbooth.db"
    booth = Tollbooth(TollboothSettings(_env_file=None, database_url=url, top_up=2), rates=FixedRate(None))
    client = serve(shop(booth))
    refused = client.get("/cent")
    assert (refused.status_code, refused.json()["reason"]) == (503, "no_rail_available")
    credential = buy(client, "/sats")
    waiting = client.get("/cent", headers=credential)
    assert (waiting.status_code, waiting.json()["reason"]) == (503, "no_exchange_rate")
    assert waiting.headers["retry-after"]
    assert "www-authenticate" not in waiting.headers
    assert client.get("/sats", headers=credential).headers["x-credit-balance"] == "7 sat"


@pytest.mark.parametrize("rate", ["1", "20000", "97123.45", "1000000", "9000000000000"])
def test_a_hundredth_of_a_cent_is_a_valid_invoice_at_any_rate(tmp_path: Path, serve: Serve, rate: str) -> None:
    app = FastAPI()
    made(tmp_path, btc_usd=rate, top_up=1).install(app)

    @app.get("/tiny", dependencies=[Depends(priced("$0.0001"))])
    async def tiny() -> str:
        return "ok"

    client = serve(app)
    offer = client.get("/tiny").json()
    assert offer["amountSats"] >= 1
    assert client.get("/tiny", headers=pay(client, offer)).status_code == 200


# ── floods ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
async def test_3000_unpaid_requests_of_one_client_make_a_handful_of_invoices(
    tmp_path: Path, invoices: list[int]
) -> None:
    booth = made(tmp_path, unpaid_rate_limit="off", invoices_per_client=20)  # what is to hold must hold by itself
    app = shop(booth)

    def client(address: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 1)), base_url="http://t")

    async with client("192.0.2.1") as flooding, client("192.0.2.2") as legitimate:
        for _ in range(10):
            answers = await asyncio.gather(*(flooding.get("/cent") for _ in range(300)))
            assert {answer.status_code for answer in answers} == {402}
        assert len(invoices) == 1
        assert (await legitimate.get("/cent")).status_code == 402
        # As many prices as requests: the cap holds, and says so.
        answers = await asyncio.gather(*(flooding.get(f"/any/{n}") for n in range(1, 301)))
        assert 21 <= len(invoices) <= 25  # a slow machine gives the bucket time to fill again
        refused = [answer for answer in answers if answer.status_code != 402]
        assert {(answer.status_code, answer.json()["reason"]) for answer in refused} == {(429, "too_many_invoices")}
        assert int(refused[0].headers["retry-after"]) >= 1
        assert "www-authenticate" not in refused[0].headers
        assert (await flooding.get("/cent")).status_code == 402  # what is open is offered again
        assert (await legitimate.get("/any/5")).status_code == 402
        posted = await flooding.post("/tollbooth/invoices", json={})
        assert posted.status_code == 400
    await booth.close()


def test_head_and_options_make_no_invoice(tmp_path: Path, serve: Serve, invoices: list[int]) -> None:
    client = serve(shop(made(tmp_path)))
    probe = client.head("/cent")
    assert (probe.status_code, probe.headers["x-l402-price-sats"], probe.content) == (402, "10", b"")
    assert "www-authenticate" not in probe.headers
    assert client.options("/cent").status_code == 200
    assert (
        client.options("/cent", headers={"Origin": "https://x", "Access-Control-Request-Method": "GET"}).status_code
        < 300
    )
    assert invoices == []
    credential = buy(client, "/cent")
    assert client.head("/cent", headers=credential).status_code == 200
    assert balance(client, credential) == "$0.01"


def test_credit_is_money(tmp_path: Path, serve: Serve) -> None:
    client = serve(shop(made(tmp_path)))
    credential = buy(client, "/cent")
    assert Money.parse(balance(client, credential)) == Money.parse("$0.02")


@pytest.mark.anyio
async def test_an_account_is_revoked_by_any_payment_that_went_into_it(tmp_path: Path) -> None:
    booth = made(tmp_path)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(shop(booth)), base_url="http://t") as client:

        async def paid(offer: dict[str, Any]) -> dict[str, str]:
            proof = (await client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]})).json()
            return {"Authorization": f"L402 {offer['macaroon']}:{proof['preimage']}"}

        first = (await client.get("/sats")).json()
        old = await paid(first)
        assert not await booth.ledger.revoke(f"l402:{first['paymentHash']}")  # nobody has paid in yet
        for _ in range(2):
            assert (await client.get("/sats", headers=old)).status_code == 200
        more = (await client.get("/sats", headers=old)).json()
        new = await paid(more)
        assert (await client.get(more["statusUrl"])).json()["status"] == "settled"
        assert await booth.ledger.revoke(f"l402:{more['paymentHash']}")
        for credential in (old, new):
            for path in ("/sats", "/tollbooth/balance"):
                refused = await client.get(path, headers=credential)
                assert (refused.status_code, refused.json()["reason"]) == (403, "credential_revoked")
                assert "www-authenticate" not in refused.headers
        assert await booth.ledger.revoke(f"l402:{first['paymentHash']}", False)
        assert (await client.get("/sats", headers=old)).status_code == 200
    await booth.close()
