"""A38: of a whole run, nothing that is secret is in a log, a row of the ledger, an error's body or a repr."""

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth import Asset, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.lightning import LightningUnavailable
from fastapi_tollbooth.lightning.dev import DevNode
from fastapi_tollbooth.rails.credit import mint_credit
from fastapi_tollbooth.rails.macaroon import narrow
from tests.wallet import pay

SECRET = "0123456789abcdef" * 4
NODE_KEY = "node-key-" + "f" * 40


class Run:
    """What was secret in a run, and everything that others could see of it."""

    def __init__(self) -> None:
        self.secret: set[str] = {SECRET}
        self.seen: list[str] = []

    def credential(self, headers: dict[str, str]) -> dict[str, str]:
        line = headers["Authorization"]
        macaroon, _, preimage = line.removeprefix("L402 ").rpartition(":")
        self.secret |= {line, macaroon, preimage, preimage.upper(), macaroon[:-4]}
        return headers

    def answer(self, response: Any) -> Any:
        """Note an answer; what a challenge gives to its own caller is taken out first."""
        text = response.text
        if response.status_code in (201, 402) and response.text.startswith("{"):
            self.secret.add(response.json()["macaroon"])
            text = text.replace(response.json()["macaroon"], "")
        self.seen.append(text)
        return response

    def leaks(self) -> set[str]:
        everything = "\n".join(self.seen)
        return {secret for secret in self.secret if secret in everything}


def rows(path: Path) -> str:
    with sqlite3.connect(path) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = "\n".join(str(row) for name in names for row in connection.execute(f'SELECT * FROM "{name}"'))
    connection.close()
    return found


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    # A handler of our own: pytest's starts anew for each phase of a test.
    text, root = StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(text), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.getLogger("fastapi_tollbooth").debug("the run begins")
    run = Run()
    yield run
    root.removeHandler(handler)
    root.setLevel(level)
    out, err = capfd.readouterr()
    assert "the run begins" in text.getvalue()
    run.seen += [text.getvalue(), out, err]
    assert run.leaks() == set()


def test_a38_a_whole_run_leaks_nothing(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/tollbooth.db"
    settings = TollboothSettings(
        _env_file=None, database_url=url, secret=SECRET, top_up=2, settlement_wait=0, invoices_per_client=100
    )
    booth = Tollbooth(settings)
    app = FastAPI()
    booth.install(app)

    @app.get("/x", dependencies=[Depends(priced("7 sat"))])
    async def x() -> str:
        return "ok"

    @app.get("/fails", dependencies=[Depends(priced("7 sat"))])
    async def fails() -> str:
        raise RuntimeError("the handler's own")

    with TestClient(app, raise_server_exceptions=False) as client:

        def get(path: str, headers: dict[str, str] | None = None) -> Any:
            return run.answer(client.get(path, headers=headers))

        credential = run.credential(pay(client, get("/x").json()))
        macaroon, _, preimage = credential["Authorization"].removeprefix("L402 ").rpartition(":")
        for path in ("/x", "/fails", "/x", "/x", "/tollbooth/balance"):
            get(path, credential)
        topped_up = run.credential(pay(client, get("/x", credential).json()))
        for path in ("/x", "/tollbooth/balance"):
            get(path, topped_up)
        narrowed = f"L402 {narrow(macaroon, 'tollbooth_max_spend=1 sat')}:{preimage}"
        handed_on = run.credential({"Authorization": narrowed})
        for bad in (
            handed_on,
            {"Authorization": f"L402 {macaroon[:-8]}AAAAAAA=:{preimage}"},
            {"Authorization": f"L402 {macaroon}:{preimage[:-1]}"},
            {"Authorization": f"L402 {macaroon}:{'0' * 64}"},
            {"Authorization": f"Bearer {macaroon}"},
            {"Authorization": f"{narrowed}, {narrowed}"},
        ):
            for path in ("/x", "/tollbooth/balance", "/tollbooth/invoices"):
                get(path, bad)
            run.answer(client.post("/tollbooth/invoices", headers=bad, json={"bundle": macaroon}))
        other = mint_credit(booth.keys, "tollbooth", "x402:abc", Asset.USD, datetime.now(UTC) + timedelta(days=1))
        run.credential({"Authorization": other.authorization})
        get("/x", {"Authorization": other.authorization})
        fresh = run.credential(pay(client, get("/x").json()))

        async def silent(*_: Any, **__: Any) -> Any:
            raise LightningUnavailable("silent")

        with monkeypatch.context() as dead:
            dead.setattr(DevNode, "lookup", silent)
            dead.setattr(DevNode, "create_invoice", silent)
            assert get("/x", fresh).status_code == 503
            assert get("/x").status_code == 503
        with monkeypatch.context() as broken:

            async def breaks(*_: Any, **__: Any) -> Any:
                raise RuntimeError(f"a defect with {fresh} in its text")

            broken.setattr(DevNode, "lookup", breaks)
            assert get("/x", fresh).status_code == 503
        get("/openapi.json")
        get("/docs")
        run.seen.append(repr([vars(booth), vars(booth.rails[0]), booth.settings, booth.keys, other]))
    asyncio.run(booth.close())
    run.seen.append(rows(tmp_path / "tollbooth.db"))


def test_a38_a_node_that_does_not_answer_does_not_give_its_key_away(tmp_path: Path, run: Run) -> None:
    run.secret.add(NODE_KEY)
    for backend in ("phoenixd", "lnd", "cln", "lnbits"):
        key = NODE_KEY if backend != "lnd" else NODE_KEY.encode().hex()
        run.secret.add(key)
        lightning: Any = {"backend": backend, "url": "http://127.0.0.1:9", "api_key": key}
        settings = TollboothSettings(
            _env_file=None,
            database_url=f"sqlite:///{tmp_path}/{backend}.db",
            secret=SECRET,
            btc_usd="100000",
            lightning=lightning,
        )
        booth = Tollbooth(settings)
        app = FastAPI()
        booth.install(app)

        @app.get("/x", dependencies=[Depends(priced("7 sat"))])
        async def x() -> str:
            return "ok"

        with TestClient(app) as client:
            assert run.answer(client.get("/x")).status_code == 503
            assert run.answer(client.post("/tollbooth/invoices", json={})).status_code == 400
        run.seen.append(repr([vars(booth), vars(booth.rails[0]), booth.settings, booth.lightning]))
