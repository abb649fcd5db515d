import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware

from fastapi_tollbooth import priced
from fastapi_tollbooth.doctor import Finding, Level
from fastapi_tollbooth.doctor.probe import probe
from fastapi_tollbooth.testing import FakeTollbooth
from tests.service import free_port, running


def probed(url: str) -> list[Finding]:
    async def run() -> list[Finding]:
        return [finding async for finding in probe(url)]

    return asyncio.run(run())


@pytest.mark.slow
def test_a_development_service_is_seen_through(tmp_path: Path) -> None:
    with running("example_app.main:app", TOLLBOOTH_DATABASE_URL=f"sqlite:///{tmp_path}/t.db") as url:
        found = {(finding.check, finding.level) for finding in probed(url)}
    assert {
        ("reachable", Level.OK),
        ("tls", Level.WARNING),
        ("development", Level.PROBLEM),
        ("offer", Level.OK),
    } <= found


def test_nobody_there_is_one_finding() -> None:
    [finding] = probed(f"http://127.0.0.1:{free_port()}")
    assert (finding.check, finding.level) == ("reachable", Level.PROBLEM)


def test_an_address_that_is_none_is_one_finding() -> None:
    for url in ("api.example.com", "http://[", "ftp://example.com"):
        [finding] = probed(url)
        assert (finding.check, finding.level) == ("reachable", Level.PROBLEM)


def test_a_service_that_stops_answering_is_a_finding_and_the_others_stay(probe_of: Any) -> None:
    app = service()

    @app.middleware("http")
    async def stop(request: Request, call_next: Any) -> Response:
        if request.method == "OPTIONS":
            raise httpx.ReadTimeout("gone")
        answer: Response = await call_next(request)
        return answer

    found = probe_of(app)
    assert (found["tls"], found["reachable"]) == (Level.OK, Level.PROBLEM)


def service(price: str = "$0.01") -> FastAPI:
    app = FastAPI()
    FakeTollbooth().install(app)

    @app.get("/x", dependencies=[Depends(priced(price))])
    async def x() -> str:
        return "ok"

    return app


@pytest.fixture
def probe_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Level]]:
    """What is found of an application at this address, without a socket."""

    def run(app: FastAPI, url: str = "https://api.example.com", change: Any = None) -> dict[str, Level]:
        transport = httpx.ASGITransport(app)

        class Client(httpx.AsyncClient):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options, transport=transport)

        with monkeypatch.context() as patched:
            patched.setattr("fastapi_tollbooth.doctor.probe.httpx.AsyncClient", Client)
            return {finding.check: finding.level for finding in probed(url)}

    return run


def test_a_service_that_is_well_passes(probe_of: Any) -> None:
    found = probe_of(service())
    assert set(found.values()) == {Level.OK}
    assert {"tls", "development", "cors", "offer"} <= set(found)


def test_credentials_travel_encrypted(probe_of: Any) -> None:
    assert probe_of(service(), "http://api.example.com")["tls"] is Level.PROBLEM
    assert probe_of(service(), "http://10.0.0.1")["tls"] is Level.WARNING


def test_strangers_pages_are_not_let_in(probe_of: Any) -> None:
    app = service()
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    assert probe_of(app)["cors"] is Level.PROBLEM


def test_what_is_served_without_payment_is_pointed_at(probe_of: Any) -> None:
    assert probe_of(service("$0"))["offer"] is Level.WARNING
    assert probe_of(FastAPI())["probe"] is Level.WARNING


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda response: response.headers.update({"cache-control": "public"}), "cache"),
        (lambda response: response.headers.__delitem__("www-authenticate"), "offer"),
        (lambda response: response.headers.update({"x-padding": "x" * 9_000}), "402-size"),
        (lambda response: setattr(response, "status_code", 500), "offer"),
    ],
)
def test_a_proxy_that_spoils_the_402_is_found(probe_of: Any, change: Any, check: str) -> None:
    app = service()

    @app.middleware("http")
    async def proxy(request: Any, call_next: Any) -> Response:
        response: Response = await call_next(request)
        if request.url.path == "/x":
            change(response)
        return response

    assert probe_of(app)[check] is Level.PROBLEM
