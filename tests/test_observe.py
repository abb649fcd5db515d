import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from fastapi_tollbooth import Money, Reject, Toll, Tollbooth, TollboothSettings, priced

Serve = Callable[..., TestClient]


def observing(tmp_path: Path) -> Tollbooth:
    return Tollbooth(TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/t.db", mode="observe"))


def test_everything_is_served_and_what_it_would_have_cost_is_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app, booth = FastAPI(), observing(tmp_path)
    with caplog.at_level(logging.INFO):
        booth.install(app)
    assert "TOLLBOOTH_MODE=observe" in caplog.text

    def broken() -> Money:
        raise RuntimeError("no price")

    @app.get("/x", dependencies=[Depends(priced("$0.02"))])
    async def x() -> str:
        return "ok"

    @app.post("/model", dependencies=[Depends(priced(models={"a": "$1"}, fallback="21 sat"))])
    async def model(body: dict[str, Any]) -> str:
        return "ok"

    @app.get("/broken", dependencies=[Depends(priced(broken))])
    async def no_price() -> str:
        return "ok"

    @app.get("/metered")
    async def metered(toll: Annotated[Toll, Depends(priced("$1", metered=True))]) -> str:
        toll.use("$0.30")
        return "ok"

    @app.get("/fails", dependencies=[Depends(priced("$5"))])
    async def fails() -> str:
        raise HTTPException(404)

    with TestClient(app) as client, caplog.at_level(logging.INFO):
        assert [client.get("/x").status_code for _ in range(3)] == [200] * 3
        assert client.get("/x", headers={"Authorization": "L402 rubbish"}).status_code == 200
        assert client.post("/model", json={"model": "a"}).status_code == 200
        assert client.post("/model", json={"model": "b", "pad": "x" * 100_000}).status_code == 200
        assert client.get("/broken").status_code == 200
        assert client.get("/metered").status_code == 200
        assert client.get("/fails").status_code == 404
    assert "would have charged $0.02 for /x" in caplog.text
    assert "would have refused a request to /broken: pricing_failed" in caplog.text
    with sqlite3.connect(tmp_path / "t.db") as connection:
        rows = connection.execute("SELECT bucket, used FROM tollbooth_free_use ORDER BY bucket").fetchall()
        transfers = connection.execute("SELECT count(*) FROM tollbooth_transfer").fetchone()
    connection.close()
    assert rows == [
        ("observed btc /model", 21_000),
        ("observed usd /broken", 0),
        ("observed usd /metered", 300_000),
        ("observed usd /model", 1_000_000),
        ("observed usd /x", 80_000),
    ]
    assert transfers == (0,)


def test_a_hook_s_refusal_still_holds(tmp_path: Path, serve: Serve) -> None:
    app, booth = FastAPI(), observing(tmp_path)
    booth.install(app)
    booth.on_request(lambda connection: Reject(451))

    @app.get("/x", dependencies=[Depends(priced("$0.02"))])
    async def x() -> str:
        return "ok"

    assert serve(app).get("/x").status_code == 451
