"""A price that was quoted holds for its request until the quote expires, for nothing else, and for nobody's harm."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from fastapi_tollbooth import Money, Toll, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.ledger.tables import metadata
from fastapi_tollbooth.rails.x402.networks import find_network
from fastapi_tollbooth.rails.x402.payments import Asked
from fastapi_tollbooth.rails.x402.quotes import STEP, Quoted, Quotes, Subject, expiry
from fastapi_tollbooth.settings import LightningSettings, X402Settings
from fastapi_tollbooth.testing import run
from tests.stub_facilitator import StubFacilitator, stub_facilitator
from tests.x402_payer import PAY_TO, decode, encode, sign, sign_v1

Serve = Callable[..., TestClient]

ASKED = Asked(find_network("base"), 10_000, PAY_TO)
SUBJECT = Subject("svc", "GET", "https://x/y", "/y", "price")
QUOTED = Quoted(Money.parse("$0.01"), 1_800_000_000)
RING = KeyRing((b"n" * 32, b"o" * 32))


# ── the text ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("price", ["$0.01", "21 sat", "$9000000000"])
def test_a_quote_is_read_as_it_was_signed(price: str) -> None:
    quoted = Quoted(Money.parse(price), 1_800_000_000)
    text = Quotes(RING).sign(quoted, SUBJECT, ASKED)
    assert Quotes(RING).read(text, SUBJECT, ASKED) == quoted
    assert len(text) == 44


def test_a_quote_of_an_older_key_holds_and_one_of_a_foreign_key_does_not() -> None:
    old = Quotes(KeyRing(RING.secrets[1:])).sign(QUOTED, SUBJECT, ASKED)
    assert Quotes(RING).read(old, SUBJECT, ASKED) == QUOTED
    assert Quotes(KeyRing((b"f" * 32,))).read(old, SUBJECT, ASKED) is None


@pytest.mark.parametrize("member", Subject._fields)
def test_a_quote_is_for_its_subject_only(member: str) -> None:
    text = Quotes(RING).sign(QUOTED, SUBJECT, ASKED)
    assert Quotes(RING).read(text, SUBJECT._replace(**{member: "other"}), ASKED) is None


@pytest.mark.parametrize(
    "other",
    [ASKED._replace(amount=10_001), ASKED._replace(pay_to="x"), ASKED._replace(network=find_network("polygon"))],
)
def test_a_quote_is_for_its_amount_recipient_and_token_only(other: Asked) -> None:
    assert Quotes(RING).read(Quotes(RING).sign(QUOTED, SUBJECT, ASKED), SUBJECT, other) is None


@given(
    st.integers(0, 43), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=\u00e9 ")
)
def test_a_tampered_quote_is_nothing(at: int, letter: str) -> None:
    text = Quotes(RING).sign(QUOTED, SUBJECT, ASKED)
    changed = text[:at] + letter + text[at + 1 :]
    assert (Quotes(RING).read(changed, SUBJECT, ASKED) is None) is (changed != text)


@given(st.none() | st.integers() | st.text() | st.text(alphabet="A", min_size=44, max_size=44) | st.lists(st.text()))
def test_what_is_no_quote_is_nothing(text: Any) -> None:
    assert Quotes(RING).read(text, SUBJECT, ASKED) is None


@given(st.integers(0, 2**31), st.integers(1, 3_600))
def test_a_quote_lasts_as_long_as_the_offer_and_at_most_a_minute_more(now: int, lasts: int) -> None:
    assert now + lasts < expiry(now, lasts) <= now + lasts + STEP


# ── the service ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Shop:
    """A service; made again in the same folder, it is the same service with other prices."""

    def __init__(self, stub: StubFacilitator, folder: Path, serve: Serve, *prices: Any, fails: bool = False) -> None:
        self.stub, self.fails, self.tolls = stub, fails, list[Toll]()
        x402 = X402Settings(pay_to=PAY_TO, networks=["base-sepolia"], facilitator_url=stub.url)
        settings = TollboothSettings(
            _env_file=None,
            database_url=f"sqlite:///{folder}/tollbooth.db",
            lightning=LightningSettings(backend="none"),
            btc_usd="100000",
            x402=x402,
        )
        self.tollbooth, app = Tollbooth(settings), FastAPI()
        self.tollbooth.install(app)
        for number, price in enumerate(prices):
            app.get(f"/{number}")(self._handler(price))
        self.app, self.client = app, serve(app, raise_server_exceptions=False)

    def _handler(self, price: Any) -> Callable[..., str]:
        def handler(toll: Annotated[Toll, Depends(price)]) -> str:
            self.tolls.append(toll)
            if self.fails:
                raise HTTPException(500, "the handler fails")
            return "served"

        return handler

    def offer(self, path: str = "/0", **options: Any) -> dict[str, Any]:
        """What an unpaid request is asked for."""
        offered: dict[str, Any] = decode(self.client.get(path, **options).headers["payment-required"])["accepts"][0]
        return offered

    def pay(self, signed: dict[str, Any], path: str = "/0", headers: Any = None, **options: Any) -> Any:
        """A request with a payment."""
        return self.client.get(path, headers={"PAYMENT-SIGNATURE": encode(signed), **(headers or {})}, **options)

    def earned(self) -> int:
        """Micro-dollars; the books are checked on the way."""
        account = metadata.tables["tollbooth_account"]
        query = select(account.c.posted).where(account.c.key == "revenue:USD")
        assert run(self.tollbooth.ledger.read(verify)).discrepancy is None
        return run(self.tollbooth.ledger.read(lambda connection: connection.execute(query).scalar())) or 0

    def forged(self, offer: dict[str, Any], expires_at: float) -> dict[str, Any]:
        """An offer whose quote expires at another time, signed by the service itself."""
        asked = Asked(find_network("base-sepolia"), int(offer["amount"]), offer["payTo"])
        subject = Subject(self.tollbooth.settings.service, "GET", "http://testserver/0", "/0", "price")
        quoted = Quoted(Money(int(offer["amount"]), Money.parse("$1").asset), int(expires_at))
        text = Quotes(self.tollbooth.keys).sign(quoted, subject, asked)
        return {**offer, "extra": {**offer["extra"], "quote": text}}


Open = Callable[..., Shop]


@pytest.fixture
def opened(tmp_path: Path, serve: Serve) -> Iterator[Open]:
    with stub_facilitator() as stub:
        yield lambda *prices, **more: Shop(stub, tmp_path, serve, *prices, **more)


def assert_refused(shop: Shop, answer: Any, reason: str = "wrong_amount") -> None:
    assert (answer.status_code, answer.json()["reason"]) == (402, reason)
    assert (shop.tolls, shop.earned()) == ([], 0)


def test_a_request_keeps_its_price_when_that_is_raised(opened: Open) -> None:
    offer = opened(priced("$0.01")).offer()
    shop = opened(priced("$0.02"))
    answer = shop.pay(sign(offer))
    assert answer.status_code == 200
    assert (shop.tolls[0].price, shop.tolls[0].amount, shop.earned()) == (Money.parse("$0.01"),) * 2 + (10_000,)
    # Facilitators may want what the payer accepted and what we ask for to be one.
    assert [told["paymentRequirements"] for _, told in shop.stub.calls] == [offer, offer]


def test_without_the_quote_it_does_not(opened: Open) -> None:
    first = opened(priced("$0.01"))
    offer, old = first.offer(), first.client.get("/0").json()["accepts"][0]
    shop = opened(priced("$0.02"))
    assert_refused(shop, shop.pay(sign({**offer, "extra": {}})))
    assert_refused(shop, shop.client.get("/0", headers={"X-PAYMENT": encode(sign_v1(old))}))
    assert "quote" not in old["extra"]


def test_an_expired_quote_is_nothing(opened: Open) -> None:
    offer = opened(priced("$0.01")).offer()
    shop = opened(priced("$0.02"))
    assert_refused(shop, shop.pay(sign(shop.forged(offer, time.time() - 1))))
    assert shop.pay(sign(shop.forged(offer, time.time() + 30))).status_code == 200


def test_the_current_price_may_be_paid_with_an_expired_or_foreign_quote(opened: Open) -> None:
    shop = opened(priced("$0.01"))
    offer = shop.offer()
    assert shop.pay(sign(shop.forged(offer, 1))).status_code == 200
    assert shop.pay(sign({**offer, "extra": {**offer["extra"], "quote": "?"}})).status_code == 200
    assert shop.earned() == 20_000


def test_a_quote_is_never_to_its_payer_s_disadvantage(opened: Open) -> None:
    offer = opened(priced("$0.02")).offer()
    shop = opened(priced("$0.01"))
    assert shop.pay(sign({**offer, "amount": "10000"})).status_code == 200
    assert (shop.tolls[-1].price, shop.earned()) == (Money.parse("$0.01"), 10_000)
    assert shop.pay(sign(offer)).status_code == 200
    assert (shop.tolls[-1].price, shop.earned()) == (Money.parse("$0.02"), 30_000)


def test_a_quote_of_something_cheap_does_not_buy_something_dear(opened: Open) -> None:
    match = priced(match=[{"where": {"query.q": "cheap"}, "price": "$0.01"}], fallback="$1")
    tiers = priced(tiers={"default": "$0.01", "best": "$1"})
    models = priced(match=[{"where": {"params.item": "1"}, "price": "$0.01"}], fallback="$1")
    shop = opened(priced("$0.01"), priced("$1"), match, tiers)
    shop.app.post("/0", dependencies=[Depends(priced("$1"))])(lambda: "served")
    shop.app.get("/items/{item}", dependencies=[Depends(models)])(lambda: "served")
    cheap = shop.offer()
    assert_refused(shop, shop.pay(sign(cheap), "/1"))
    post = shop.client.post("/0", headers={"PAYMENT-SIGNATURE": encode(sign(cheap))})
    assert_refused(shop, post)
    assert_refused(shop, shop.pay(sign(shop.offer("/2?q=cheap")), "/2"))
    assert_refused(shop, shop.pay(sign(shop.offer("/3")), "/3", {"X-Toll-Tier": "best"}))
    assert_refused(shop, shop.pay(sign(shop.offer("/items/1")), "/items/2"))


def test_credit_is_never_sold_by_a_quote(opened: Open) -> None:
    shop = opened(priced("$0.01"))
    unpaid = shop.client.post("/tollbooth/credits", json={"amount": "$1"})
    offer = decode(unpaid.headers["payment-required"])["accepts"][0]
    assert "quote" not in offer["extra"]
    header = {"PAYMENT-SIGNATURE": encode(sign({**offer, "extra": shop.offer()["extra"]}))}
    assert_refused(shop, shop.client.post("/tollbooth/credits", json={"amount": "$100"}, headers=header))


def test_a_price_in_bitcoin_is_held_too(opened: Open) -> None:
    offer = opened(priced("10 sat")).offer()
    shop = opened(priced("20 sat"))
    assert shop.pay(sign(offer)).status_code == 200
    assert (str(shop.tolls[0].price), str(shop.tolls[0].amount), shop.earned()) == ("10 sat", "$0.01", 10_000)


def test_what_is_held_of_a_metered_request_is_what_was_quoted(opened: Open) -> None:
    offer = opened(priced("$0.50", metered=True)).offer()
    shop = opened(priced("$1", metered=True))

    def use(toll: Annotated[Toll, Depends(priced("$1", metered=True))]) -> str:
        return str(toll.use("$0.20"))

    shop.app.router.routes[:] = [route for route in shop.app.router.routes if getattr(route, "path", "") != "/0"]
    shop.app.get("/0")(use)
    assert shop.pay(sign(offer)).json() == "$0.20"
    assert shop.earned() == 200_000


def test_what_was_paid_before_the_quote_expired_is_owed_at_its_price(opened: Open) -> None:
    offer = opened(priced("$0.01", settle="before")).offer()
    shop = opened(priced("$0.02", settle="before"), fails=True)
    paid = sign(offer)
    assert shop.pay(paid).status_code == 500
    assert (len(shop.tolls), shop.earned()) == (1, 0)
    # Long ago, and without a digest, so that the same payment may come with a quote of another time.
    statement = "UPDATE tollbooth_payment SET digest = NULL, updated_at = '2020-01-01 00:00:00.000000'"
    run(shop.tollbooth.ledger.execute(lambda connection: connection.exec_driver_sql(statement)))
    shop.fails = False
    before, after = datetime(2019, 12, 31, tzinfo=UTC).timestamp(), datetime(2020, 1, 2, tzinfo=UTC).timestamp()
    assert shop.pay({**paid, "accepted": shop.forged(offer, before)}).json()["reason"] == "wrong_amount"
    assert (len(shop.tolls), shop.earned()) == (1, 0)
    assert shop.pay({**paid, "accepted": shop.forged(offer, after)}).status_code == 200
    assert (len(shop.tolls), shop.earned()) == (2, 10_000)
    assert [path for path, _ in shop.stub.calls].count("/settle") == 1


def test_the_402_stays_the_same_for_a_while(opened: Open) -> None:
    shop = opened(priced("$0.01"))
    first, second = shop.client.get("/0").headers["payment-required"], shop.client.get("/0").headers["payment-required"]
    quotes = {decode(header)["accepts"][0]["extra"]["quote"] for header in (first, second)}
    assert len(quotes) == 1 or int(time.time()) % STEP < 2
