"""Which rails the settings make."""

from pathlib import Path
from typing import Any

import pytest

from fastapi_tollbooth import ConfigurationError, Tollbooth, TollboothSettings
from fastapi_tollbooth.settings import LightningSettings, X402Settings
from tests.x402_payer import PAY_TO

STABLE = X402Settings(pay_to=PAY_TO, networks=["base"], facilitator_url="http://127.0.0.1:9")


def rails(path: Path, **settings: Any) -> list[str]:
    made = TollboothSettings(_env_file=None, database_url=f"sqlite:///{path}/t.db", **settings)
    return [rail.name for rail in Tollbooth(made).rails]


def test_lightning_comes_first_and_stablecoins_when_there_is_an_address(tmp_path: Path) -> None:
    assert rails(tmp_path) == ["l402"]
    assert rails(tmp_path, x402=STABLE) == ["l402", "x402"]
    assert rails(tmp_path, x402=STABLE, environment="production") == ["x402"]


def test_credit_for_stablecoins_needs_a_secret_to_sign_it_with(tmp_path: Path) -> None:
    assert rails(tmp_path, x402=STABLE, environment="production", secret="s" * 32) == ["x402", "l402"]


def test_none_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TOLLBOOTH_X402__PAY_TO"):
        rails(tmp_path, lightning=LightningSettings(backend="none"))
