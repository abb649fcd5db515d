"""A price that cannot be paid in any way does not start; one that a rail must leave out is warned of."""

from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth import ConfigurationError, Money, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.doctor import Level, Patient, configuration
from fastapi_tollbooth.payable import left_out, takes
from fastapi_tollbooth.settings import LightningSettings, X402Settings
from tests.x402_payer import PAY_TO

CHAIN = "eip155:31337"
MATCH = [{"where": {"query.n": 1}, "price": "$0.001"}]


def tollbooth(folder: Path, *, lightning: bool = False, networks: tuple[str, ...] = (CHAIN,), **more: Any) -> Tollbooth:
    """One that takes a token of two decimals."""
    token = {"address": "0x" + "34" * 20, "decimals": 2, "name": "Cents", "version": "1"}
    if not lightning:
        more["lightning"] = LightningSettings(backend="none")
    x402 = X402Settings(pay_to=PAY_TO, networks=list(networks), assets={CHAIN: token})
    return Tollbooth(TollboothSettings(_env_file=None, database_url=f"sqlite:///{folder}/t.db", x402=x402, **more))


def app_with(price: Any) -> FastAPI:
    app = FastAPI()
    app.get("/x", dependencies=[Depends(price)])(lambda: "served")
    return app


@pytest.mark.parametrize(
    "price",
    [
        priced("$0.001"),
        priced("$1.005"),
        priced("21 sat"),
        priced(match=MATCH, fallback="$1"),
        priced(match=[{"where": {"query.n": 1}, "price": "$1"}], fallback="$0.001"),
        priced(tiers={"default": "$1", "small": "$0.001"}),
        priced(models={"tiny": "$0.001"}, fallback="$1"),
    ],
)
def test_a_price_that_no_token_expresses_does_not_install(price: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no configured token can express .* on GET /x"):
        tollbooth(tmp_path).install(app_with(price))


def test_a_route_that_is_added_later_does_not_start(tmp_path: Path) -> None:
    app = FastAPI()
    tollbooth(tmp_path).install(app)
    app.get("/late", dependencies=[Depends(priced("$0.001"))])(lambda: "served")
    with pytest.raises(ConfigurationError, match=r"\$0.001 on GET /late"), TestClient(app):
        pass


def test_the_default_price_counts_where_it_may_be_asked(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="GET /x"):
        tollbooth(tmp_path, default_price="$0.001").install(app_with(priced()))
    tollbooth(tmp_path, default_price="$0.001").install(app_with(priced("$1")))


@pytest.mark.parametrize("price", [priced("$0.01"), priced("$0"), priced(lambda: "$0.001", max_price="$1"), priced()])
def test_what_can_be_paid_or_is_free_or_is_not_known_starts(price: Any, tmp_path: Path) -> None:
    tollbooth(tmp_path, default_price="$1").install(app_with(price))


def test_one_token_that_can_is_enough(tmp_path: Path) -> None:
    booth, app = tollbooth(tmp_path, networks=(CHAIN, "base-sepolia")), app_with(priced("$0.001"))
    booth.install(app)
    with TestClient(app) as client:
        assert [entry["network"] for entry in client.get("/x").json()["x402"]["accepts"]] == ["eip155:84532"]


def test_where_another_rail_takes_it_this_one_is_left_out_and_the_owner_is_warned(tmp_path: Path) -> None:
    booth, app = tollbooth(tmp_path, lightning=True), app_with(priced("$0.001"))
    booth.install(app)
    with TestClient(app) as client:
        refused = client.get("/x")
    assert refused.status_code == 402
    assert "payment-required" not in refused.headers
    assert refused.headers["www-authenticate"].startswith("L402 ")
    [route] = booth.prices()
    assert route.warnings == ("x402 cannot be paid $0.001 and is left out of its 402",)
    [finding] = configuration.amounts(Patient(app, booth, folder=tmp_path))
    assert (finding.level, "GET /x" in finding.detail) == (Level.WARNING, True)


def test_the_owner_is_not_warned_of_what_all_can_take(tmp_path: Path) -> None:
    booth, app = tollbooth(tmp_path, lightning=True), app_with(priced("$0.01"))
    booth.install(app)
    [route] = booth.prices()
    assert (route.warnings, left_out(route, booth.rails)) == ((), [])
    assert [takes(rail, Money.parse("$0.001")) for rail in booth.rails] == [True, False]
    [finding] = configuration.amounts(Patient(app, booth, folder=tmp_path))
    assert finding.level is Level.OK
