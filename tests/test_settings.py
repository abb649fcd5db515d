from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fastapi_tollbooth import Money, Tollbooth, TollboothSettings
from fastapi_tollbooth.money import Rate


def test_defaults_are_for_a_developer_s_machine() -> None:
    settings = TollboothSettings(_env_file=None)
    assert settings.environment == "development"
    assert settings.database_url == "sqlite:///tollbooth.db"
    assert settings.top_up == 1
    assert settings.btc_usd is None


def test_variables_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "TOLLBOOTH_DATABASE_URL": "sqlite:///elsewhere.db",
        "TOLLBOOTH_SECRET": "a" * 32,
        "TOLLBOOTH_ENVIRONMENT": "production",
        "TOLLBOOTH_BTC_USD": "97123.5",
        "TOLLBOOTH_TOP_UP": "$1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = TollboothSettings(_env_file=None)
    assert settings.database_url == "sqlite:///elsewhere.db"
    assert settings.key_ring() == (b"a" * 32,)
    assert settings.environment == "production"
    assert settings.btc_usd == Rate.parse("97123.5")
    assert settings.top_up == Money.parse("$1")


def test_variables_are_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text('TOLLBOOTH_TOP_UP=25\nTOLLBOOTH_SERVICE="weather"\nOTHER=1\n')
    monkeypatch.chdir(tmp_path)
    settings = Tollbooth().settings
    assert settings.top_up == 25
    assert settings.service == "weather"


@pytest.mark.parametrize(("value", "expected"), [("10", 10), (3, 3), ("21 sat", Money.parse("21 sat"))])
def test_a_top_up_is_a_count_or_an_amount(value: object, expected: object) -> None:
    assert TollboothSettings(_env_file=None, top_up=value).top_up == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_up", "ten"),
        ("top_up", "0"),
        ("top_up", "$0"),
        ("top_up", -1),
        ("btc_usd", "0"),
        ("btc_usd", "lots"),
        ("btc_usd", float("nan")),
        ("environment", "prod"),
        ("service", "My Service"),
        ("invoice_expiry", 1),
        ("trusted_proxies", "everyone"),
        ("trusted_proxies", "10.0.0.1/8"),
    ],
)
def test_nonsense_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        TollboothSettings(_env_file=None, **{name: value})


def test_numbers_are_rates_too() -> None:
    assert TollboothSettings(_env_file=None, btc_usd=97_123.5).btc_usd == Rate.parse("97123.5")
    assert TollboothSettings(_env_file=None, btc_usd=97_123).btc_usd == Rate.parse("97123")


def test_a_bad_secret_is_not_echoed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLBOOTH_SECRET", "hunter2hunter2")
    monkeypatch.setenv("TOLLBOOTH_TOP_UP", "nonsense")
    with pytest.raises(ValidationError) as error:
        TollboothSettings(_env_file=None)
    assert "hunter2" not in str(error.value)
    assert "nonsense" in str(error.value) or "top_up" in str(error.value)


def test_developers_meet_no_limit_that_they_did_not_set() -> None:
    free = TollboothSettings(_env_file=None)
    assert (free.unpaid_rate_limit, free.invoices_per_client >= 1_000) == (None, True)
    own = TollboothSettings(_env_file=None, unpaid_rate_limit="5/minute", invoices_per_client=3)
    assert (str(own.unpaid_rate_limit), own.invoices_per_client) == ("5/minute", 3)
    node = TollboothSettings(_env_file=None, lightning={"backend": "phoenixd", "url": "http://127.0.0.1:9740"})
    assert (node.invoices_per_client, node.invoices_per_minute) == (20, 600)
    production = TollboothSettings(_env_file=None, environment="production")
    assert str(production.unpaid_rate_limit) == "300/minute"
    assert production.invoices_per_client == 20


@pytest.mark.parametrize("text", ["base,polygon", "base, polygon", '["base", "polygon"]'])
def test_networks_are_named_as_people_write_lists(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TOLLBOOTH_X402__NETWORKS", text)
    assert TollboothSettings(_env_file=None).x402.networks == ["base", "polygon"]
