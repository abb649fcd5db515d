import asyncio
import logging
import sqlite3
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from fastapi_tollbooth import ConfigurationError, FreeTier, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.free_tier import Clients
from fastapi_tollbooth.keys import KeyRing
from tests.wallet import buy

Serve = Callable[..., TestClient]


@pytest.fixture
def runs() -> list[str]:
    return []


def shop(runs: list[str], tollbooth: Tollbooth) -> FastAPI:
    app = FastAPI()
    tollbooth.install(app)

    @app.get("/x", dependencies=[Depends(priced("$0.02"))])
    async def x() -> str:
        runs.append("x")
        return "ok"

    @app.get("/own", dependencies=[Depends(priced("$0.02", free_tier=FreeTier(requests=1)))])
    async def own() -> str:
        runs.append("own")
        return "ok"

    @app.get("/never", dependencies=[Depends(priced("$0.02", free_tier=False))])
    async def never() -> str:
        runs.append("never")
        return "ok"

    @app.get("/fails", dependencies=[Depends(priced("$0.02"))])
    async def fails() -> str:
        runs.append("fails")
        raise HTTPException(418)

    @app.get("/sats", dependencies=[Depends(priced("1 sat"))])
    async def sats() -> str:
        return "ok"

    @app.post("/upload", dependencies=[Depends(priced("$0.02"))])
    async def upload(body: dict[str, Any]) -> str:
        runs.append("upload")
        return "ok"

    @app.get("/free", dependencies=[Depends(priced("$0"))])
    async def free() -> str:
        runs.append("free")
        return "ok"

    return app


def tollbooth(tmp_path: Path, **options: Any) -> Tollbooth:
    settings = TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/t.db", top_up=10)
    return Tollbooth(settings, **options)


def rows(tmp_path: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(tmp_path / "t.db") as connection:
        found = connection.execute("SELECT bucket, client, used FROM tollbooth_free_use ORDER BY bucket").fetchall()
    connection.close()
    return found


def test_a_mount_with_parameters_has_one_free_tier_and_not_one_for_each_name(
    tmp_path: Path, serve: Serve, runs: list[str]
) -> None:
    app, shops = FastAPI(), FastAPI()
    tollbooth(tmp_path).install(app)
    app.mount("/shops/{tenant}", shops)

    @shops.get("/own", dependencies=[Depends(priced("$0.02", free_tier=FreeTier(requests=1)))])
    async def own() -> str:
        runs.append("own")
        return "ok"

    client = serve(app)
    assert [client.get(f"/shops/{name}/own").status_code for name in "abcd"] == [200, 402, 402, 402]
    assert runs == ["own"]


def test_so_many_requests_a_day_are_free_and_the_next_must_be_paid(
    tmp_path: Path, serve: Serve, runs: list[str]
) -> None:
    client = serve(shop(runs, tollbooth(tmp_path, free_tier=FreeTier(requests=2))))
    answers = [client.get("/x") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 402, 402]
    assert [answer.headers.get("x-free-remaining") for answer in answers] == ["1", "0", None, None]
    assert answers[0].headers["cache-control"] == "private"
    assert answers[2].json()["reason"] == "free_tier_exhausted"
    assert client.get("/x", headers=buy(client, "/x")).headers["x-credit-balance"] == "$0.18"
    assert runs == ["x"] * 3


def test_so_much_worth_a_day_is_free(tmp_path: Path, serve: Serve, runs: list[str]) -> None:
    client = serve(shop(runs, tollbooth(tmp_path, free_tier=FreeTier(credits="$0.05"))))
    answers = [client.get("/x") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 402]
    assert [answer.headers.get("x-free-remaining") for answer in answers] == ["$0.03", "$0.01", None]
    assert client.get("/sats").status_code == 402


def test_the_settings_give_a_tier_and_a_route_one_of_its_own_or_none(
    tmp_path: Path, serve: Serve, runs: list[str]
) -> None:
    settings = TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/t.db", free_tier="2")
    client = serve(shop(runs, Tollbooth(settings)))
    assert [client.get("/own").status_code for _ in range(2)] == [200, 402]
    assert [client.get("/x").status_code for _ in range(3)] == [200, 200, 402]
    refused = client.get("/never")
    assert (refused.status_code, refused.json()["reason"]) == (402, "payment_required")


def test_a_failed_credential_does_not_fall_back_to_the_free_tier(tmp_path: Path, serve: Serve, runs: list[str]) -> None:
    client = serve(shop(runs, tollbooth(tmp_path, free_tier=FreeTier(requests=5))))
    for line in ("L402 rubbish", "L402 AAAA:" + "0" * 64, "LSAT :"):
        assert client.get("/x", headers={"Authorization": line}).status_code == 402
    assert runs == []
    assert client.get("/x", headers={"Authorization": "Bearer of another kind"}).status_code == 200


def test_a_failed_handler_gives_the_free_use_back(tmp_path: Path, serve: Serve, runs: list[str]) -> None:
    client = serve(shop(runs, tollbooth(tmp_path, free_tier=FreeTier(requests=1))))
    assert [client.get("/fails").status_code for _ in range(3)] == [418] * 3
    assert [client.get("/x").status_code for _ in range(2)] == [200, 402]
    assert runs == ["fails"] * 3 + ["x"]
    # Exhausted is remembered, and forgotten when a use is given back.
    assert client.get("/fails").status_code == 402


def test_a_failed_handler_gives_the_free_use_back_though_the_ledger_is_busy(tmp_path: Path, serve: Serve) -> None:
    booth = tollbooth(tmp_path, free_tier=FreeTier(requests=1))
    app = shop([], booth)

    @app.get("/busy", dependencies=[Depends(priced("$0.02"))])
    async def busy() -> None:
        booth.ledger._most_waiting = 0  # as many wait as may
        raise HTTPException(418)

    client = serve(app)
    assert client.get("/busy").status_code == 418
    booth.ledger._most_waiting = 10
    assert [client.get("/x").status_code for _ in range(2)] == [200, 402]


def test_an_exhausted_client_is_refused_before_its_upload_is_read(
    tmp_path: Path, serve: Serve, runs: list[str]
) -> None:
    client = serve(shop(runs, tollbooth(tmp_path, free_tier=FreeTier(requests=1))))

    def upload_broken() -> int:
        headers = {"Content-Type": "application/json"}
        return client.post("/upload", content="{broken", headers=headers).status_code

    assert client.post("/upload", json={}).status_code == 200
    assert upload_broken() == 422
    assert client.post("/upload", json={}).status_code == 402
    # Broken JSON would be a 422 had it been read.
    assert upload_broken() == 402
    assert runs == ["upload"]


def test_each_client_has_its_own_tier_and_is_known_by_a_hash_only(
    tmp_path: Path, serve: Serve, runs: list[str]
) -> None:
    app = shop(runs, tollbooth(tmp_path, free_tier=FreeTier(requests=1)))
    clients = [serve(app, client=(address, 1)) for address in ("203.0.113.1", "203.0.113.2", "2001:db8::1")]
    assert [client.get("/x").status_code for client in clients] == [200] * 3
    neighbour = serve(app, client=("2001:db8::ffff", 1))
    assert neighbour.get("/x").status_code == 402
    found = rows(tmp_path)
    assert len(found) == 3
    assert all(bucket == "free_tier" and used == 1 for bucket, _, used in found)
    assert not [client for _, client, _ in found if "." in client or ":" in client]
    assert len({client for _, client, _ in found}) == 3


def test_the_hash_of_a_client_changes_every_day_and_with_the_secret() -> None:
    def name(secret: bytes, day: date, bucket: str = "free_tier") -> str:
        return Clients(lambda: KeyRing((secret,)), lambda: day).use(bucket, "203.0.113.1", 1).client

    monday, tuesday = date(2026, 11, 16), date(2026, 11, 17)
    names = {name(b"a" * 32, monday), name(b"a" * 32, tuesday), name(b"b" * 32, monday)}
    assert len(names) == 3
    assert name(b"a" * 32, monday, "another") in names


def test_a_new_day_is_free_again_and_old_days_are_forgotten(tmp_path: Path, serve: Serve, runs: list[str]) -> None:
    booth = tollbooth(tmp_path, free_tier=FreeTier(requests=1))
    client, clients = serve(shop(runs, booth)), booth.admission.free_uses._clients
    for day, expected in ((16, [200, 402]), (17, [200, 402]), (30, [200, 402])):
        clients.today = lambda day=day: date(2026, 11, day)  # type: ignore[misc]
        assert [client.get("/x").status_code for _ in range(2)] == expected
    assert len(rows(tmp_path)) == 1


def test_free_routes_are_counted(tmp_path: Path, serve: Serve, runs: list[str]) -> None:
    with TestClient(shop(runs, tollbooth(tmp_path))) as client:
        answers = [client.get("/free") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert [(bucket, used) for bucket, _, used in rows(tmp_path)] == [("free /free", 5)]


def test_without_an_answer_of_the_database_nothing_is_free(
    tmp_path: Path, serve: Serve, runs: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    client = serve(shop(runs, tollbooth(tmp_path, free_tier=FreeTier(requests=5))))
    assert client.get("/x").status_code == 200
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute("DROP TABLE tollbooth_free_use")
    connection.close()
    with caplog.at_level(logging.ERROR):
        refused = client.get("/x")
    assert (refused.status_code, refused.json()["reason"]) == (503, "ledger_unavailable")
    assert runs == ["x"]


@pytest.mark.anyio
async def test_a_request_that_is_cancelled_while_it_takes_gives_back(tmp_path: Path, runs: list[str]) -> None:
    booth = tollbooth(tmp_path, free_tier=FreeTier(requests=1))
    app = shop(runs, booth)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/own")).status_code == 200
        asked = asyncio.create_task(client.get("/x"))
        for _ in range(50):
            await asyncio.sleep(0)
            if booth.admission.free_uses._ledger.stats().waiting or asked.done():
                break
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await booth.close()
        assert [client_rows for client_rows in rows(tmp_path) if client_rows[0] == "free_tier" and client_rows[2]] == []
        assert (await client.get("/x")).status_code == 200
    await booth.close()
    assert runs == ["own", "x"]


@pytest.mark.anyio
async def test_of_many_requests_at_once_exactly_so_many_are_free(tmp_path: Path, runs: list[str]) -> None:
    booth = tollbooth(tmp_path, free_tier=FreeTier(requests=3))
    app = shop(runs, booth)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answers = await asyncio.gather(*(client.get("/x") for _ in range(50)))
    await booth.close()
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [402] * 47
    assert runs == ["x"] * 3


def test_a_tier_that_never_covers_its_route_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="never covers"):
        priced("$0.10", free_tier=FreeTier(credits="$0.05"))
    with pytest.raises(ConfigurationError, match="never covers"):
        priced("21 sat", free_tier=FreeTier(credits="$0.05"))
