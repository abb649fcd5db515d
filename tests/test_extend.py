"""The rail and the node of ``docs/extend.md``, taken from the page and held to what every rail and node keeps."""

import asyncio
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from fastapi_tollbooth import Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.ledger.store import Store
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.lightning import InvoiceState, LightningUnavailable
from fastapi_tollbooth.lightning.checking import request_invoice
from fastapi_tollbooth.lightning.dev import DevNode

PAGE = (Path(__file__).parent.parent / "docs" / "extend.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def module(code: str, name: str, folder: Path) -> ModuleType:
    # A real module, because FastAPI and dataclasses look theirs up.
    found = ModuleType(name)
    sys.modules[name] = found
    exec(compile(code, name, "exec"), vars(found))
    return found


@pytest.fixture(params=[0, 1], ids=["rail", "node"])
def snippet(request: pytest.FixtureRequest) -> str:
    return str(SNIPPETS[request.param])


def test_each_is_below_a_hundred_lines(snippet: str) -> None:
    lines = [line for line in snippet.partition("\napp = FastAPI()")[0].splitlines() if line.strip()]
    assert len(lines) < 100


# ── the rail ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def vouchers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.chdir(tmp_path)
    return module(SNIPPETS[0], "voucher_rail", tmp_path)


@pytest.fixture
def shop(vouchers: ModuleType, settings: TollboothSettings) -> FastAPI:
    app = FastAPI()
    app.state.runs = 0
    Tollbooth(settings, rails=lambda ledger: [vouchers.VoucherRail(ledger)]).install(app)

    @app.get("/dear", dependencies=[Depends(priced("$2"))])
    async def dear() -> None:
        app.state.runs += 1

    @app.get("/broken", dependencies=[Depends(priced("$5"))])
    async def broken() -> None:
        raise HTTPException(500)

    @app.get("/sats", dependencies=[Depends(priced("21 sat"))])
    async def sats() -> None: ...

    return app


def test_a_voucher_is_spent_to_its_end_and_what_fails_is_free(
    vouchers: ModuleType, shop: FastAPI, serve: Callable[..., TestClient]
) -> None:
    client = serve(shop)
    headers = {"Authorization": f"Voucher {vouchers.voucher('0001')}"}
    offer = client.get("/dear")
    assert offer.status_code == 402
    assert offer.json()["voucher"] == {"worth": "$5.00"}
    assert client.get("/broken", headers=headers).status_code == 500
    balances = [client.get("/dear", headers=headers).headers.get("x-voucher-balance") for _ in range(3)]
    assert balances == ["$3.00", "$1.00", None]
    assert client.get("/dear", headers=headers).json()["reason"] == "insufficient_credit"
    assert client.get("/sats", headers=headers).json()["reason"] == "wrong_asset"
    forged = {"Authorization": "Voucher 0002.00"}
    assert client.get("/dear", headers=forged).json()["reason"] == "forged_voucher"
    assert shop.state.runs == 2


def test_a_voucher_that_comes_many_times_at_once_is_funded_once(
    vouchers: ModuleType, shop: FastAPI, serve: Callable[..., TestClient], settings: TollboothSettings
) -> None:
    client = serve(shop)
    headers = {"Authorization": f"Voucher {vouchers.voucher('0001')}"}

    def call(_: int) -> int:
        return client.get("/dear", headers=headers).status_code

    with ThreadPoolExecutor(12) as threads:
        statuses = list(threads.map(call, range(12)))
    assert sorted(statuses) == [200] * 2 + [402] * 10
    assert shop.state.runs == 2
    client.__exit__(None, None, None)
    store = Store(settings.database_url)
    audit = store.read(verify)
    store.close()
    assert (audit.payments, audit.discrepancy) == (1, None)
    client.__enter__()


def test_a_stolen_voucher_is_closed(vouchers: ModuleType, shop: FastAPI, serve: Callable[..., TestClient]) -> None:
    client = serve(shop)
    headers = {"Authorization": f"Voucher {vouchers.voucher('0001')}"}
    assert client.get("/dear", headers=headers).status_code == 200
    assert client.portal is not None
    client.portal.call(shop.state.tollbooth.books.revoke, "voucher:0001")
    assert client.get("/dear", headers=headers).json()["reason"] == "credential_revoked"


def test_documentation_shows_it(shop: FastAPI) -> None:
    document = shop.openapi()
    assert document["components"]["securitySchemes"]["voucher"]["scheme"] == "Voucher"
    assert document["paths"]["/dear"]["get"]["x-payment-info"]["offers"][0]["method"] == "voucher"


# ── the node ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Away(DevNode):
    """A node that can be switched off."""

    away = False

    async def create_invoice(self, *arguments: Any, **named: Any) -> Any:
        if self.away:
            raise LightningUnavailable("away")
        return await super().create_invoice(*arguments, **named)

    async def lookup(self, payment_hash: bytes) -> Any:
        if self.away:
            raise LightningUnavailable("away")
        return await super().lookup(payment_hash)


def test_the_second_node_takes_over_and_nothing_is_guessed(tmp_path: Path) -> None:
    spare = module(SNIPPETS[1], "spare_node", tmp_path).Spare

    async def story() -> None:
        ledger = Ledger(f"sqlite:///{tmp_path}/t.db")
        first, second = (Away(KeyRing((key * 32,)), ledger, "development") for key in (b"a", b"b"))
        node = spare([first, second])
        before = await request_invoice(node, 21_000, "x", 600)
        first.away = True
        after = await request_invoice(node, 21_000, "x", 600)
        await second.pay(after.bolt11)
        assert (await node.lookup(after.payment_hash)).state is InvoiceState.SETTLED
        with pytest.raises(LightningUnavailable):  # it is the first one's, which may have been paid
            await node.lookup(before.payment_hash)
        second.away = True
        with pytest.raises(LightningUnavailable):
            await request_invoice(node, 21_000, "x", 600)
        first.away = second.away = False
        await first.pay(before.bolt11)
        assert (await node.lookup(before.payment_hash)).state is InvoiceState.SETTLED
        await node.aclose()
        await ledger.close()

    asyncio.run(story())
