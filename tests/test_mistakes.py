"""The mistakes that are made first, and what they are told: what is wrong, and what to write instead."""

import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.testclient import TestClient
from starlette.applications import Starlette

from fastapi_tollbooth import ConfigurationError, Toll, Tollbooth, TollboothSettings, get_tollbooth, priced
from fastapi_tollbooth.errors import TollClosed
from fastapi_tollbooth.testing import FakeTollbooth, PayingClient, replaced

RULE = {"where": {"query.q": "x"}, "price": "$1"}


def fresh(booth: Tollbooth) -> FastAPI:
    app = FastAPI()
    booth.install(app)
    return app


# ── the price ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (lambda: priced("0.01"), 'write it like "$0.01"'),
        (lambda: priced(0.01), 'write it like "$0.01"'),  # type: ignore[arg-type]
        (lambda: priced("€1"), 'write it like "$0.01"'),
        (lambda: priced("$0.0000001"), "the smallest amount is $0.000001"),
        (lambda: priced("1.2345 sat"), "the smallest amount is 1 msat"),
        (lambda: priced(match=[{**RULE, "where": {"model": "x"}}], fallback="$1"), "body.<path>, query.<key>"),
        (lambda: priced(match=[{"were": {}, "price": "$1"}], fallback="$1"), 'write {"where": '),
        (lambda: priced("$0.01", rate_limit="10"), 'write "10/second"'),
    ],
)
def test_a_price_that_means_nothing_is_told_how_to_be_written(mistake: Callable[[], Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        mistake()
    assert told in str(raised.value)


def test_rules_with_nothing_behind_them_are_named_by_their_route(booth: Tollbooth) -> None:
    app = FastAPI()

    @app.get("/search", dependencies=[Depends(priced(match=[RULE]))])
    async def search() -> None: ...

    with pytest.raises(ConfigurationError, match=r"GET /search: give priced\(...\) a fallback"):
        booth.install(app)


def test_a_price_that_is_not_wrapped_in_depends(booth: Tollbooth) -> None:
    with pytest.raises(ConfigurationError, match=r"dependencies=\[Depends\(priced\(...\)\)\]"):
        fresh(booth).get("/x", dependencies=[priced("$0.01")])(lambda: None)  # type: ignore[list-item]


def test_priced_that_is_not_called(booth: Tollbooth) -> None:
    with pytest.raises(ConfigurationError, match=r'write Depends\(priced\("\$0.01"\)\)'):
        fresh(booth).get("/x", dependencies=[Depends(priced)])(lambda: None)


@pytest.mark.parametrize("outermost", [True, False])
def test_a_price_as_a_decorator_serves_nobody(booth: Tollbooth, outermost: bool) -> None:
    def handler() -> None: ...

    price: Any = priced("$0.01")
    route = fresh(booth).get("/x")
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        _ = price(route(handler)) if outermost else route(price(handler))


def test_a_toll_that_comes_from_nowhere_would_be_whatever_the_caller_sends(booth: Tollbooth) -> None:
    async def handler(toll: Toll) -> None: ...

    with pytest.raises(ConfigurationError, match=r"Annotated\[Toll, Depends\(priced"):
        fresh(booth).post("/x")(handler)


# ── the application ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dependency", [priced("$0.01"), get_tollbooth], ids=["priced", "get_tollbooth"])
def test_no_tollbooth_is_installed(dependency: Any) -> None:
    app, ran = FastAPI(), []

    @app.get("/x", dependencies=[Depends(dependency)])
    async def x() -> None:
        ran.append(1)

    with pytest.raises(ConfigurationError, match=r"call tollbooth.install\(app\)"):
        TestClient(app).get("/x")
    assert not ran


def test_installed_when_it_is_too_late(booth: Tollbooth) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        booth.install(app)
        yield

    with pytest.raises(ConfigurationError, match="not in a lifespan"), TestClient(FastAPI(lifespan=lifespan)):
        pass


def test_installed_twice(booth: Tollbooth) -> None:
    app = fresh(booth)
    with pytest.raises(ConfigurationError, match=r"reach it as app\.state\.tollbooth"):
        booth.install(app)


@pytest.mark.parametrize("other", [APIRouter(), Starlette()], ids=lambda other: type(other).__name__)
def test_installed_on_something_else(booth: Tollbooth, other: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"not on {type(other).__name__}"):
        booth.install(other)


def test_what_looks_like_a_mistake_and_is_none(booth: Tollbooth) -> None:
    """Mounted applications, two applications with one tollbooth, handlers without async, clients without lifespan."""
    inner, outer, other = FastAPI(), FastAPI(), FastAPI()
    for each in (inner, other):

        @each.get("/x", dependencies=[Depends(priced("$0.01"))])
        def x() -> None: ...

    outer.mount("/inner", inner)
    booth.install(outer)
    booth.install(other)
    assert TestClient(outer).get("/inner/x").status_code == 402
    assert TestClient(other).get("/x").status_code == 402


# ── the settings ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("TOLLBOOTH_TOP_UP", "ten", "TOLLBOOTH_TOP_UP: 'ten' is not an amount of money"),
        ("TOLLBOOTH_SERVICE", "My Shop", "TOLLBOOTH_SERVICE: String should match"),
        ("TOLLBOOTH_LIGHTNING__BACKEND", "lnf", "TOLLBOOTH_LIGHTNING__BACKEND: Input should be"),
        ("TOLLBOOTH_LIGHTNING__BACKEND", "lnd", "TOLLBOOTH_LIGHTNING__API_KEY must be LND's"),
        ("TOLLBOOTH_LIGHTNING__URL", "https://node.example", "set TOLLBOOTH_LIGHTNING__BACKEND to"),
        ("TOLLBOOTH_X402__ASSETS", "usdt", "TOLLBOOTH_X402: it is not JSON"),
        ("TOLLBOOTH_X402__NETWORKS", "[base]", "TOLLBOOTH_X402__NETWORKS: "),
        ("TOLLBOOTH_X402__PAYTO", "0x" + "12" * 20, "did you mean TOLLBOOTH_X402__PAY_TO?"),
        ("TOLLBOOTH_X402__PAY_TO", "0x" + "12" * 20, "TOLLBOOTH_X402__NETWORKS=base"),
        ("TOLLBOOTH_DATABASE_URL", "mysql://x/y", 'write it like "sqlite:///tollbooth.db"'),
        ("TOLLBOOTH_DATABASE_URL", "sqlite:////nowhere/t.db", "name a folder that is there"),
        ("TOLLBOOTH_ENVIRONMENT", "production", "TOLLBOOTH_SECRET: it is not set; make one"),
    ],
)
def test_a_variable_that_cannot_mean_anything_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as raised:
        Tollbooth().install(FastAPI())
    assert told in str(raised.value)
    assert str(raised.value).count("https://github.com/") == 1, "one address, however deep the mistake is"


def test_what_was_wrong_in_a_variable_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLBOOTH_LIGHTNING__TLS_PIN", "hunter2")
    monkeypatch.setenv("TOLLBOOTH_TOLL_DEADLINE", "hunter2")
    with pytest.raises(ConfigurationError) as raised:
        Tollbooth()
    assert "TOLLBOOTH_LIGHTNING__TLS_PIN" in str(raised.value)
    assert "TOLLBOOTH_TOLL_DEADLINE" in str(raised.value)
    assert "hunter2" not in repr(raised.value)


def test_a_misspelt_variable_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, settings: TollboothSettings
) -> None:
    monkeypatch.setenv("TOLLBOOTH_TOPUP", "10")
    fresh(Tollbooth(settings))
    assert "did you mean TOLLBOOTH_TOP_UP?" in caplog.text


# ── the handler ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def app(booth: Tollbooth) -> FastAPI:
    app = fresh(booth)

    @app.get("/fixed")
    async def fixed(toll: Annotated[Toll, Depends(priced("$0.01"))]) -> None:
        toll.use("$0.001")

    @app.get("/metered", dependencies=[Depends(priced("$0.01", metered=True))])
    async def metered() -> None: ...

    @app.get("/computed", dependencies=[Depends(priced(lambda query: "cheap"))])
    async def computed() -> None: ...

    return app


def test_use_on_a_toll_that_is_not_metered(app: FastAPI) -> None:
    fake = FakeTollbooth()
    with (
        replaced(app, fake),
        PayingClient(app, fake) as client,
        pytest.raises(TollClosed, match=r'priced\("\$0.50", metered=True\)'),
    ):
        client.get("/fixed")


def test_a_metered_handler_that_never_says_what_it_used(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeTollbooth()
    with replaced(app, fake), PayingClient(app, fake) as client, caplog.at_level(logging.WARNING):
        assert client.get("/metered").status_code == 200
    assert "/metered is metered and its handler did not call toll.use: nothing was charged" in caplog.text


def test_a_pricing_function_that_returns_nonsense_tells_the_owner_and_not_the_caller(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    answer = TestClient(app).get("/computed")
    assert (answer.status_code, answer.json()["reason"]) == (500, "pricing_failed")
    assert "cheap" not in answer.text
    assert 'write it like "$0.01"' in caplog.text


# ── the tests of the owner's own ──────────────────────────────────────────────────────────────────────────────────────

NO_TOLLBOOTH = """
import pytest
from fastapi import FastAPI

@pytest.fixture
def app():
    return FastAPI()
"""


@pytest.mark.parametrize(
    ("conftest", "told"),
    [("", "one of yours that is named app"), (NO_TOLLBOOTH, "without a tollbooth")],
    ids=["no fixture", "no tollbooth"],
)
def test_fixtures_without_an_application(tmp_path: Path, conftest: str, told: str) -> None:
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_shop.py").write_text("def test_x(paying_client): ...\ndef test_y(unpaid_client): ...\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert "2 errors" in said
    assert said.count(told) >= 2
    assert "Traceback" not in said
