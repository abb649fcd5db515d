import logging
from pathlib import Path

import pytest

from fastapi_tollbooth import ConfigurationError, TollboothSettings
from fastapi_tollbooth.settings import PREFIX
from fastapi_tollbooth.variables import page, report_unknown, unknown, variables


def test_every_setting_has_a_variable_and_a_meaning() -> None:
    table = {variable.name: variable for variable in variables()}
    assert {f"{PREFIX}SECRET", f"{PREFIX}X402__PAY_TO", f"{PREFIX}LIGHTNING__BACKEND"} <= set(table)
    assert [name for name, variable in table.items() if not variable.meaning] == []
    assert table[f"{PREFIX}RATE_LIMIT_STORAGE"].default == "`memory`"
    assert table[f"{PREFIX}UNPAID_RATE_LIMIT"].default == "`300/minute`"
    assert table[f"{PREFIX}SECRET"].default == "none"


def test_the_page_has_a_row_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLBOOTH_SERVICE", "mine")
    assert page().count("\n| `TOLLBOOTH_") == len(list(variables()))
    assert "mine" not in page()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TOLLBOOTH_TOPUP", "TOLLBOOTH_TOP_UP"),
        ("tollbooth_topup", "TOLLBOOTH_TOP_UP"),
        ("TOLLBOOTH_SECRETS", "TOLLBOOTH_SECRET"),
        ("TOLLBOOTH_TRUSTED_PROXY", "TOLLBOOTH_TRUSTED_PROXIES"),
        ("TOLLBOOTH_X402_PAY_TO", "TOLLBOOTH_X402__PAY_TO"),
        ("TOLLBOOTH_LIGHTNING_API_KEY", "TOLLBOOTH_LIGHTNING__API_KEY"),
        ("TOLLBOOTH_ENVIROMENT", "TOLLBOOTH_ENVIRONMENT"),
        ("TOLLBOOTH_SOMETHING_ELSE_ENTIRELY", None),
    ],
)
def test_a_misspelt_variable_is_reported_with_the_nearest_name(name: str, nearest: str | None) -> None:
    [found] = unknown([name, "TOLLBOOTH_SECRET", "PATH", "TOLLBOOTH_X402", "TOLLBOOTH_X402__ASSETS__BASE__ADDRESS"])
    assert found.nearest == nearest
    assert name.upper() in str(found)


def test_what_kubernetes_sets_for_a_service_of_that_name_is_not_ours() -> None:
    ours = ["TOLLBOOTH_SERVICE_HOST", "TOLLBOOTH_SERVICE_PORT", "TOLLBOOTH_PORT", "TOLLBOOTH_PORT_80_TCP_ADDR"]
    assert unknown([*ours, "TOLLBOOTH_SERVICE_PORT_HTTP", "TOLLBOOTH_DB_SERVICE_HOST"]) == []


def test_production_does_not_start_with_one_and_development_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("TOLLBOOTH_UNPAID_RATE_LIMITS=10/second\nOTHER=1\n")
    with pytest.raises(ConfigurationError, match="did you mean TOLLBOOTH_UNPAID_RATE_LIMIT"):
        report_unknown({}, production=True)
    with caplog.at_level(logging.WARNING):
        report_unknown({"TOLLBOOTH_WHATEVER_THAT_IS": "secret"}, production=False)
    assert "TOLLBOOTH_UNPAID_RATE_LIMITS is no setting: did you mean TOLLBOOTH_UNPAID_RATE_LIMIT?" in caplog.text
    assert "TOLLBOOTH_WHATEVER_THAT_IS is no setting" in caplog.text
    assert "secret" not in caplog.text.lower().replace("tollbooth_secret", "")


def test_secrets_may_be_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tollbooth_secret").write_text("f" * 40 + "\n")
    (tmp_path / "tollbooth_lightning__api_key").write_text("key\n")
    settings = TollboothSettings(_env_file=None, _secrets_dir=tmp_path)
    assert settings.key_ring() == (b"f" * 40,)
    monkeypatch.setenv("TOLLBOOTH_SECRET", "e" * 40)
    assert TollboothSettings(_env_file=None, _secrets_dir=tmp_path).key_ring() == (b"e" * 40,)
