"""Promises of the design that no single module keeps, on the real rails: nothing leaks, nothing fails open."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_tollbooth import Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.ledger.store import Store
from tests import raw
from tests.wallet import buy, pay

Serve = Callable[..., TestClient]


def app_of(booth: Tollbooth, runs: list[str]) -> FastAPI:
    app = FastAPI()
    booth.install(app)

    @app.get("/x", dependencies=[Depends(priced("$0.01"))])
    async def x() -> str:
        runs.append("x")
        await asyncio.sleep(0)
        return "ok"

    return app


@pytest.mark.anyio
async def test_of_64_requests_on_credit_for_10_exactly_10_run(booth: Tollbooth) -> None:
    runs: list[str] = []
    app = app_of(booth, runs)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        offer = (await client.get("/x")).json()
        paid = (await client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]})).json()
        headers = {"Authorization": f"L402 {offer['macaroon']}:{paid['preimage']}"}
        responses = await asyncio.gather(*(client.get("/x", headers=headers) for _ in range(64)))
    statuses = [response.status_code for response in responses]
    assert sorted(statuses) == [200] * 10 + [402] * 54
    assert len(runs) == 10
    assert {r.json()["reason"] for r in responses if r.status_code == 402} == {"insufficient_credit"}
    await booth.close()
    with sqlite3.connect(str(booth.settings.database_url).removeprefix("sqlite:///")) as connection:
        balances = connection.execute("SELECT posted, pending FROM tollbooth_account WHERE kind = 'payer'").fetchall()
    connection.close()
    assert balances == [(0, 0)]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("fuzz") / "t.db"
    runs: list[str] = []
    booth = Tollbooth(
        TollboothSettings(_env_file=None, database_url=f"sqlite:///{path}", settlement_wait=0, unpaid_rate_limit="off")
    )
    with TestClient(app_of(booth, runs)) as client:
        offer = client.get("/x").json()
        yield client, runs, offer


schemes = st.sampled_from(
    ["L402", "LSAT", "l402", "L402 L402", "L402\t", "L402:", "Bearer", "", "L40", "Payment", "Basic"]
)
base64_like = st.text("ABCDEFabcdef0123456789+/=-_,", max_size=300)
hex_like = st.text("0123456789abcdefABCDEFg", max_size=70)
header_text = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=300)
preimages = st.binary(min_size=32, max_size=32).map(bytes.hex)
lines = st.one_of(
    header_text,
    st.builds("{} {}".format, schemes, header_text),
    st.builds("{} {}:{}".format, schemes, base64_like, hex_like),
    st.builds("{} MACAROON:{}".format, schemes, hex_like),
    st.builds("{} START{}STOP:{}".format, schemes, base64_like, preimages),
)
names = st.sampled_from(["Authorization"] * 8 + ["Macaroon", "Grpc-Metadata-Macaroon"])


@settings(max_examples=10_000, deadline=None)
@given(lines, names, st.integers(0, 1_000), st.integers(0, 1_000))
def test_no_authorization_header_gives_a_500_or_a_free_answer(
    fuzzed: Any, line: str, name: str, start: int, stop: int
) -> None:
    client, runs, offer = fuzzed
    macaroon: str = offer["macaroon"]
    start, stop = sorted((start % len(macaroon), stop % len(macaroon)))
    for marker, part in (("MACAROON", macaroon), ("START", macaroon[:start]), ("STOP", macaroon[stop:])):
        line = line.replace(marker, part)
    assert raw.get(client, "/x", name, line.strip().encode("latin-1")).status in (400, 402), line
    assert runs == []


def test_secrets_appear_nowhere(
    tmp_path: Path, serve: Serve, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "0123456789abcdef" * 4
    url = f"sqlite:///{tmp_path}/t.db"
    booth = Tollbooth(TollboothSettings(_env_file=None, database_url=url, secret=secret, top_up=2))
    client = serve(app_of(booth, []), raise_server_exceptions=False)
    offer = client.get("/x").json()
    credential = pay(client, offer)
    macaroon, preimage = credential["Authorization"].removeprefix("L402 ").split(":")
    bodies = []
    for headers in (credential, credential, credential, {"Authorization": f"L402 {macaroon[:-8]}AAAAAAA=:{preimage}"}):
        response = client.get("/x", headers=headers)
        bodies.append(
            response.text.replace(response.json()["macaroon"], "") if response.status_code == 402 else response.text
        )
    asyncio.run(booth.close())
    rows = "".join(
        str(row)
        for table in ("account", "transfer", "payment", "dev_invoice")
        for row in _rows(url, f"tollbooth_{table}")
    )
    out, err = capfd.readouterr()
    seen = "\n".join([caplog.text, out, err, rows, *bodies, repr(booth.settings), repr(booth.keys), repr(vars(booth))])
    for forbidden in (preimage, preimage.upper(), macaroon, secret):
        assert forbidden not in seen


def _rows(url: str, table: str) -> list[Any]:
    store = Store(url)
    try:
        return store.read(lambda connection: list(connection.exec_driver_sql(f"SELECT * FROM {table}")))
    finally:
        store.close()


def test_a_ledger_that_cannot_write_serves_nobody(tmp_path: Path, serve: Serve) -> None:
    runs: list[str] = []
    booth = Tollbooth(TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/t.db", top_up=5))
    client = serve(app_of(booth, runs))
    credential = buy(client, "/x")
    assert client.get("/x", headers=credential).status_code == 200
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute("ALTER TABLE tollbooth_transfer RENAME TO elsewhere")
    connection.close()
    refused = client.get("/x", headers=credential)
    assert refused.status_code == 503
    assert refused.json()["reason"] == "ledger_unavailable"
    assert refused.headers["retry-after"]
    assert "www-authenticate" not in refused.headers
    assert runs == ["x"]
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute("ALTER TABLE elsewhere RENAME TO tollbooth_transfer")
    connection.close()
    assert client.get("/x", headers=credential).headers["x-credit-balance"] == "$0.03"
