"""Attacks on Lightning credit, over HTTP against the real rail, each named by its id in the lists of attacks."""

import asyncio
import base64
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError
from pymacaroons import MACAROON_V2, Macaroon
from pymacaroons.serializers import BinarySerializer
from starlette.requests import HTTPConnection

from fastapi_tollbooth import ConfigurationError, Toll, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.lightning import InvoiceState, InvoiceStatus, LightningUnavailable
from fastapi_tollbooth.lightning.dev import DevNode
from fastapi_tollbooth.rails.macaroon import narrow
from fastapi_tollbooth.testing import run
from tests.wallet import buy, pay


class Service:
    """Two routes at 7 and 70 sat that count their runs, and a wallet to pay with."""

    def __init__(self, path: Path, **settings: Any) -> None:
        url = f"sqlite:///{path}/tollbooth.db"
        given = {"top_up": 3, "settlement_wait": 0, "unpaid_rate_limit": "off", **settings}
        self.booth = Tollbooth(TollboothSettings(_env_file=None, database_url=url, **given))
        self.runs: list[str] = []
        self.tolls: list[Toll] = []
        self.app = FastAPI()
        self.booth.install(self.app)

        @self.booth.caveat("tier", mint=lambda _: "basic")
        def tier(value: str, request: HTTPConnection) -> bool:
            return value == "basic"

        @self.app.get("/cheap")
        async def cheap(toll: Annotated[Toll, Depends(priced("7 sat"))]) -> str:
            self.runs.append("cheap")
            self.tolls.append(toll)
            return "ok"

        @self.app.get("/dear", dependencies=[Depends(priced("70 sat"))])
        async def dear() -> str:
            self.runs.append("dear")
            return "ok"

        self.client = TestClient(self.app, raise_server_exceptions=False)

    def buy(self, path: str = "/cheap") -> dict[str, str]:
        return buy(self.client, path)

    def parts(self) -> tuple[str, str]:
        macaroon, _, preimage = self.buy()["Authorization"].removeprefix("L402 ").rpartition(":")
        return macaroon, preimage

    def refused(self, authorization: str, path: str = "/cheap", status: int = 402) -> str:
        before = list(self.runs)
        answer = self.client.get(path, headers={"Authorization": authorization})
        assert answer.status_code == status, answer.text
        assert self.runs == before
        return str(answer.json()["reason"])

    def credits(self) -> list[str]:
        """The payments that were credited."""
        query = "SELECT spend_key FROM tollbooth_payment"
        rows = run(self.booth.ledger.read(lambda connection: connection.exec_driver_sql(query).all()))
        return [row[0] for row in rows]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    with service.client:
        yield service


def says(monkeypatch: pytest.MonkeyPatch, state: InvoiceState | None) -> None:
    async def lookup(node: DevNode, payment_hash: bytes) -> InvoiceStatus:
        if state is None:
            raise LightningUnavailable("silent")
        return InvoiceStatus(state)

    monkeypatch.setattr(DevNode, "lookup", lookup)


# ── users-and-attacks ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a1_a_credential_that_is_replayed_buys_what_was_paid_and_no_more(service: Service) -> None:
    credential = service.buy()
    statuses = [service.client.get("/cheap", headers=credential).status_code for _ in range(20)]
    assert statuses == [200] * 3 + [402] * 17
    assert len(service.runs) == 3


@pytest.mark.anyio
async def test_a2_nor_does_it_when_it_is_replayed_all_at_once_in_every_form(tmp_path: Path) -> None:
    service = Service(tmp_path)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://t") as client:
        offer = (await client.get("/cheap")).json()
        preimage = (await client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]})).json()["preimage"]
        raw = base64.b64decode(offer["macaroon"])
        forms = [
            f"L402 {offer['macaroon']}:{preimage}",
            f"LSAT {offer['macaroon']}:{preimage.upper()}",
            f"l402 {base64.urlsafe_b64encode(raw).decode().rstrip('=')}:{preimage}",
            f"L402 {narrow(offer['macaroon'], 'x=1')}:{preimage}",
        ]
        answers = await asyncio.gather(
            *(client.get("/cheap", headers={"Authorization": forms[n % 4]}) for n in range(64))
        )
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [402] * 61
    assert len(service.runs) == 3
    await service.booth.close()


def test_a6_silence_is_not_failure_and_the_same_credential_works_later(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential = service.buy()
    with monkeypatch.context() as silence:
        for state in (None, InvoiceState.UNKNOWN, InvoiceState.PENDING):
            says(silence, state)
            answer = service.client.get("/cheap", headers=credential)
            assert (answer.status_code, answer.json()["reason"]) == (503, "settlement_unconfirmed")
            assert answer.headers["retry-after"]
            assert not {"invoice", "macaroon"} & set(answer.json())
            assert "www-authenticate" not in answer.headers
    assert service.client.get("/cheap", headers=credential).status_code == 200
    assert len(service.credits()) == 1


def test_a9_a10_what_was_paid_for_the_cheap_call_does_not_open_the_dear_one(service: Service) -> None:
    credential = service.buy("/cheap")
    assert service.refused(credential["Authorization"], "/dear") == "insufficient_credit"
    credential = service.buy("/dear")
    assert service.client.get("/cheap", headers=credential).headers["x-credit-balance"] == "203 sat"
    assert service.client.get("/dear", headers=credential).headers["x-credit-balance"] == "133 sat"


def test_a11_an_old_offer_buys_credit_and_not_an_old_price(tmp_path: Path) -> None:
    prices = ["7 sat"]
    app = FastAPI()
    Tollbooth(TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/t.db", top_up=3)).install(app)

    @app.get("/x", dependencies=[Depends(priced(lambda: prices[0]))])
    async def x() -> str:
        return "ok"

    with TestClient(app) as client:
        offer = client.get("/x").json()
        prices[0] = "14 sat"
        credential = pay(client, offer)
        assert client.get("/x", headers=credential).headers["x-credit-balance"] == "7 sat"
        assert client.get("/x", headers=credential).json()["reason"] == "insufficient_credit"


def test_a12_two_credentials_or_two_forms_of_one_are_one_credential_or_an_error(service: Service) -> None:
    first, second = service.buy()["Authorization"], service.buy()["Authorization"]
    lines = [("Authorization", first), ("Authorization", second)]
    answer = service.client.get("/cheap", headers=lines)
    assert (answer.status_code, answer.json()["reason"]) == (400, "ambiguous_credential")
    macaroon, _, preimage = first.removeprefix("L402 ").rpartition(":")
    in_hex = base64.b64decode(narrow(macaroon, f"preimage={preimage}")).hex()
    assert service.client.get("/cheap", headers={"Macaroon": in_hex}).headers["x-credit-balance"] == "14 sat"
    assert service.client.get("/cheap", headers={"Authorization": first}).headers["x-credit-balance"] == "7 sat"


def test_a13_nothing_that_is_not_signed_is_a_macaroon(service: Service) -> None:
    macaroon, preimage = service.parts()
    raw = base64.b64decode(macaroon)
    richer = raw.replace((21_000).to_bytes(8, "big"), (10**15).to_bytes(8, "big"))
    assert richer != raw
    for forged in (richer, raw[:-1] + bytes([raw[-1] ^ 1]), raw[:-34] + b"\x06\x20" + bytes(32)):
        text = base64.b64encode(forged).decode()
        assert service.refused(f"L402 {text}:{preimage}") in ("invalid_signature", "malformed_credential")
    for text in ("e30=", base64.b64encode(b'{"credit": 1000000}').decode(), ""):
        assert service.refused(f"L402 {text}:{preimage}") == "malformed_credential"
    assert service.credits() == []


@pytest.mark.parametrize(
    ("caveats", "reason"),
    [
        (["tollbooth_valid_until=1", "tollbooth_valid_until=99999999999"], "credential_expired"),
        (["tollbooth_capabilities=/dear", "tollbooth_capabilities=*"], "wrong_route"),
        (["tollbooth_max_spend=1 sat", "tollbooth_max_spend=1000 sat"], "spend_cap_reached"),
        (["services=other:0", "services=tollbooth:0"], "wrong_service"),
        (["tier=premium"], "caveat_not_met"),
        (["tollbooth_account=l402:somebody"], "unknown_caveat"),
    ],
)
def test_a14_a_later_caveat_never_widens_an_earlier_one(service: Service, caveats: list[str], reason: str) -> None:
    macaroon, preimage = service.parts()
    assert service.refused(f"L402 {narrow(macaroon, *caveats)}:{preimage}") == reason


@pytest.mark.parametrize("secret", ["", " ", "short", "x" * 31, ",", "x" * 32 + ",short"])
def test_a15_no_credential_is_signed_with_a_key_that_can_be_guessed(tmp_path: Path, secret: str) -> None:
    with pytest.raises((ConfigurationError, ValidationError)):
        Service(tmp_path, secret=secret)


def test_a15_production_does_not_make_a_key_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        Service(tmp_path, environment="production")


@pytest.mark.parametrize("key", [b"", b"\x00" * 32, b"tollbooth", b"0" * 64])
def test_a15_guessed_keys_sign_nothing(service: Service, key: bytes) -> None:
    macaroon, preimage = service.parts()
    identifier = BinarySerializer().deserialize_raw(base64.b64decode(macaroon)).identifier_bytes
    forged = Macaroon(version=MACAROON_V2, location="tollbooth", identifier=identifier, key=key)
    text = base64.b64encode(BinarySerializer().serialize_raw(forged)).decode()
    assert service.refused(f"L402 {text}:{preimage}") in ("invalid_signature", "malformed_credential")


@pytest.mark.anyio
async def test_a16_what_was_stolen_is_revoked_and_what_is_handed_on_is_narrow(tmp_path: Path) -> None:
    service = Service(tmp_path)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://t") as client:
        offer = (await client.get("/cheap")).json()
        preimage = (await client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]})).json()["preimage"]
        handed_on = {"Authorization": f"L402 {narrow(offer['macaroon'], 'tollbooth_max_spend=7 sat')}:{preimage}"}
        assert [(await client.get("/cheap", headers=handed_on)).status_code for _ in range(2)] == [200, 402]
        assert await service.booth.ledger.revoke(f"l402:{offer['paymentHash']}")
        own = {"Authorization": f"L402 {offer['macaroon']}:{preimage}"}
        assert (await client.get("/cheap", headers=own)).status_code == 403
    assert len(service.runs) == 1
    await service.booth.close()


@pytest.mark.anyio
async def test_a30_top_ups_and_charges_that_race_lose_and_make_nothing(tmp_path: Path) -> None:
    service = Service(tmp_path)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://t") as client:

        async def paid(offer: dict[str, Any]) -> dict[str, str]:
            proof = (await client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]})).json()
            return {"Authorization": f"L402 {offer['macaroon']}:{proof['preimage']}"}

        credentials = [await paid((await client.get("/cheap")).json())]
        paid_in = 21
        for _ in range(5):
            crowd = [client.get("/cheap", headers=credentials[n % len(credentials)]) for n in range(16)]
            answers = await asyncio.gather(*crowd)
            refused = next(answer for answer in answers if answer.status_code == 402)
            assert refused.json()["credential"]["topsUp"] is True
            credentials.append(await paid(refused.json()))
            paid_in += 21
        left = (await client.get("/tollbooth/balance", headers=credentials[-1])).json()["amount"]
        assert len(service.runs) * 7_000 + left == paid_in * 1_000
    await service.booth.close()


def test_a32_a_flood_of_unpaid_requests_reaches_the_node_a_handful_of_times(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    original = DevNode.create_invoice

    async def counted(node: DevNode, amount_msat: int, *rest: Any, **more: Any) -> Any:
        made.append(amount_msat)
        return await original(node, amount_msat, *rest, **more)

    monkeypatch.setattr(DevNode, "create_invoice", counted)
    garbage = [f"L402 {secrets.token_hex(8)}:{secrets.token_hex(32)}" for _ in range(300)]
    for authorization in garbage:
        assert service.client.get("/cheap", headers={"Authorization": authorization}).status_code == 402
    assert len(made) == 1
    assert service.credits() == []


@pytest.mark.parametrize("size", [5_000, 50_000])
def test_a37_monsters_are_refused_by_size(service: Service, size: int) -> None:
    macaroon, preimage = service.parts()
    lines = [
        f"L402 {'A' * size}:{preimage}",
        f"L402 {macaroon}{',' + macaroon * 8}:{preimage}",
        f"L402 {macaroon}:{'0' * size}",
        f"L402 {' ' * size}{macaroon}:{preimage}",
        "L402 " * (size // 5),
    ]
    assert {service.refused(line) for line in lines} == {"malformed_credential"}


@pytest.mark.parametrize("value", ["\r\nX-Injected: 1", "x\x00y", "é" * 10])
def test_a37_nothing_that_a_holder_writes_gets_into_a_header(service: Service, value: str) -> None:
    macaroon, preimage = service.parts()
    held = BinarySerializer().deserialize_raw(base64.b64decode(macaroon))
    held.add_first_party_caveat(f"note={value}")
    text = base64.b64encode(bytes(BinarySerializer().serialize_raw(held))).decode()
    answer = service.client.get("/cheap", headers={"Authorization": f"L402 {text}:{preimage}"})
    assert answer.status_code == 200
    assert "x-injected" not in answer.headers
    assert service.tolls[-1].caveats == {"tier": "basic"}


def test_a46_a_preimage_without_a_payment_opens_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that hands out the preimages of unpaid invoices, as some have done, gives nothing away."""
    credential = service.buy()
    with monkeypatch.context() as unpaid:
        for state, status in ((InvoiceState.PENDING, 503), (InvoiceState.EXPIRED, 402), (InvoiceState.FAILED, 402)):
            says(unpaid, state)
            assert service.client.get("/cheap", headers=credential).status_code == status
            assert service.client.get("/tollbooth/balance", headers=credential).status_code in (401, 503)
    assert service.runs == []
    assert service.credits() == []


# ── toll-booth §4 ─────────────────────────────────────────────────────────────────────────────────────────────────────


UNREADABLE = ["1", "garbage", "", "0x7fffffffffffffff", "9" * 20, "NaN", "2020-01-01T00:00:00Z"]


@pytest.mark.parametrize("value", UNREADABLE)
def test_toll_booth_a16_an_expiry_that_is_over_or_unreadable_never_means_for_ever(service: Service, value: str) -> None:
    macaroon, preimage = service.parts()
    reason = service.refused(f"L402 {narrow(macaroon, f'tollbooth_valid_until={value}')}:{preimage}")
    assert reason in ("credential_expired", "malformed_credential")


def test_toll_booth_a17_handlers_never_see_a_caveat_that_a_holder_forged(service: Service) -> None:
    macaroon, preimage = service.parts()
    forged = narrow(macaroon, "Tier=premium", "admin=1", "tier =basic", "TIER=premium")
    assert service.client.get("/cheap", headers={"Authorization": f"L402 {forged}:{preimage}"}).status_code == 200
    assert service.tolls[-1].caveats == {"tier": "basic"}


def test_toll_booth_a18_no_proof_of_payment_is_credited_twice(service: Service) -> None:
    deposit = service.buy()
    for _ in range(3):
        assert service.client.get("/cheap", headers=deposit).status_code == 200
    offer = service.client.get("/cheap", headers=deposit).json()
    topped_up = pay(service.client, offer)
    old_preimage = deposit["Authorization"].rpartition(":")[2]
    # The deposit's own proof as that of the top-up, the top-up's as that of the deposit, and each again and again.
    assert service.refused(f"L402 {offer['macaroon']}:{old_preimage}") == "wrong_preimage"
    for credential in (topped_up, deposit, topped_up):
        assert service.client.get("/tollbooth/balance", headers=credential).json()["balance"] in ("21 sat", "0 sat")
        service.client.get(offer["statusUrl"])
    assert service.client.get("/tollbooth/balance", headers=deposit).json()["balance"] == "21 sat"
    assert len(service.credits()) == 2


def test_toll_booth_b1_a_handler_that_fails_costs_nothing(service: Service) -> None:
    @service.app.get("/fails", dependencies=[Depends(priced("7 sat"))])
    async def fails() -> None:
        raise RuntimeError("no")

    credential = service.buy()
    assert service.client.get("/fails", headers=credential).status_code == 500
    assert service.client.get("/tollbooth/balance", headers=credential).json()["balance"] == "21 sat"


@pytest.mark.parametrize("top_up", ["1 sat", "10 sat", "$0.0001", 1])
def test_toll_booth_b8_what_is_paid_always_covers_the_request_that_asked(tmp_path: Path, top_up: Any) -> None:
    service = Service(tmp_path, top_up=top_up)
    with service.client:
        assert service.client.get("/dear", headers=service.buy("/dear")).status_code == 200


def test_toll_booth_d2_preflight_makes_no_invoice(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any, **__: Any) -> None:
        raise AssertionError("an invoice was made")

    monkeypatch.setattr(DevNode, "create_invoice", never)
    assert service.client.options("/cheap").status_code in (200, 405)
    assert service.client.head("/cheap").status_code in (402, 405)


def test_toll_booth_d3_one_client_s_flood_locks_nobody_else_out(tmp_path: Path) -> None:
    service = Service(tmp_path, invoices_per_client=2)
    prices = service.app

    @prices.get("/n/{n}", dependencies=[Depends(priced(lambda params: f"{params['n']} sat"))])
    async def any_price(n: int) -> str:
        return "ok"

    with service.client:
        assert [service.client.get(f"/n/{n}").status_code for n in (1, 2, 3, 4)] == [402, 402, 429, 429]
        with TestClient(service.app, client=("192.0.2.7", 1)) as other:
            assert other.get("/n/3").status_code == 402


@pytest.mark.parametrize("body", [{"bundle": "1 sat"}, {"bundle": 7}, [], {"bundle": "7 sat; DROP"}])
def test_toll_booth_d4_a_request_that_is_refused_burns_no_invoice(
    service: Service, monkeypatch: pytest.MonkeyPatch, body: Any
) -> None:
    async def never(*_: Any, **__: Any) -> None:
        raise AssertionError("an invoice was made")

    monkeypatch.setattr(DevNode, "create_invoice", never)
    assert service.client.post("/tollbooth/invoices", json=body).status_code == 400


def test_toll_booth_d5_a_dead_node_is_a_503_and_not_an_error(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: Any, **__: Any) -> None:
        raise LightningUnavailable("down")

    monkeypatch.setattr(DevNode, "create_invoice", down)
    answer = service.client.get("/cheap")
    assert (answer.status_code, answer.json()["reason"]) == (503, "no_rail_available")
    assert answer.headers["retry-after"]


@pytest.mark.parametrize("tail", ["é" * 32, "\u2028", "ﬀ", "0" * 63 + "é", "\x7f"])
def test_toll_booth_d6_other_letters_in_a_preimage_are_a_402(service: Service, tail: str) -> None:
    macaroon, preimage = service.parts()
    line = f"L402 {macaroon}:{preimage[: 64 - len(tail)]}{tail}".encode()
    answer = service.client.get("/cheap", headers={b"Authorization": line})
    assert (answer.status_code, answer.json()["reason"]) == (402, "malformed_credential")


def test_toll_booth_d10_a_name_in_the_description_cannot_break_the_header(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Service(tmp_path, service='x", invoice="lnbc1')


# ── a crash between payment and retry ─────────────────────────────────────────────────────────────────────────────────


def test_a_node_that_dies_between_payment_and_retry_costs_one_payment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(tmp_path)
    with service.client:
        credential = service.buy()
        with monkeypatch.context() as dead:
            says(dead, None)
            for _ in range(3):
                answer = service.client.get("/cheap", headers=credential)
                assert answer.status_code == 503
                assert "lnbc" not in answer.text
    again = Service(tmp_path)  # the service, too, was started anew
    with again.client:
        assert again.client.get("/cheap", headers=credential).status_code == 200
        preimage = bytes.fromhex(credential["Authorization"].rpartition(":")[2])
        assert again.credits() == [f"l402:{hashlib.sha256(preimage).hexdigest()}"]
