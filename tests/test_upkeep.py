"""What runs beside the application."""

import asyncio
import subprocess
import sys

import pytest

from fastapi_tollbooth import upkeep as module
from fastapi_tollbooth.errors import Unavailable
from fastapi_tollbooth.ledger.operations import Authorize, Fund
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.money import Asset, Money
from fastapi_tollbooth.rates import FixedRate
from fastapi_tollbooth.settings import TollboothSettings
from fastapi_tollbooth.testing import FakeRail
from fastapi_tollbooth.upkeep import Recovered, recover, upkeep

pytestmark = pytest.mark.anyio


class OpenRail(FakeRail):
    """A rail that always finds something, or whose ledger is down."""

    asked = 0
    down = False

    async def reconcile(self) -> int:
        """What was found."""
        self.asked += 1
        if self.down:
            raise Unavailable("ledger_unavailable", "It is down.")
        return 3


async def test_tolls_and_payments_are_both_recovered(url: str) -> None:
    ledger = Ledger(url)
    payment = Payment("fake", "key", 10, Asset.USD, "payer")
    await ledger.apply(Fund("payer", Money(10, Asset.USD), payment), Authorize("payer", Money(4, Asset.USD), "/x"))
    await asyncio.sleep(0.02)
    assert await recover(ledger, [OpenRail(ledger), OpenRail(ledger)], 0.01) == Recovered(tolls=1, payments=6)
    await ledger.close()


async def test_it_goes_on_when_something_does_not_answer(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.01)
    ledger = Ledger(url)
    rail = OpenRail(ledger)
    rail.down = True
    async with upkeep(ledger, [rail], FixedRate(None), TollboothSettings(_env_file=None, toll_deadline=60.0)):
        assert rail.asked == 0
        await ledger.read(lambda connection: None)
        while rail.asked < 3:
            await asyncio.sleep(0.01)
    asked = rail.asked
    await asyncio.sleep(0.05)
    assert rail.asked == asked
    await ledger.close()


COLLECTOR = """
import gc
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_tollbooth import Tollbooth, TollboothSettings

def frozen(**settings):
    app = FastAPI()
    Tollbooth(TollboothSettings(_env_file=None, database_url="sqlite://", **settings)).install(app)
    with TestClient(app):
        return gc.get_freeze_count()

usual = gc.get_threshold()
assert frozen() == 0, "it is the owner's process"
assert gc.get_threshold() == usual
first = frozen(tune_gc=True)
assert first > 10_000
assert gc.get_threshold() == (50_000, *usual[1:])
gc.set_threshold(0)
assert frozen(tune_gc=True) <= first, "once per process"
assert gc.get_threshold()[0] == 0, "whoever switches it off has switched it off"
"""


def test_the_collector_is_tuned_once_when_an_application_has_started() -> None:
    subprocess.run([sys.executable, "-c", COLLECTOR], check=True, timeout=60)
