import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer

from fastapi_tollbooth import Money
from fastapi_tollbooth.terminal import keep_books, moment, print_json


def test_days_and_times_are_understood() -> None:
    assert moment("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert moment("2026-01-31T01:00+02:00") == datetime(2026, 1, 30, 23, tzinfo=UTC)
    with pytest.raises(typer.BadParameter, match="ISO 8601"):
        moment("yesterday")


def test_money_and_times_are_text_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": Money.parse("$0.01"), "at": datetime(2026, 1, 31, tzinfo=UTC)})
    assert json.loads(capsys.readouterr().out) == {"a": "$0.01", "at": "2026-01-31T00:00:00+00:00"}


def test_no_ledger_is_made_by_looking_for_one(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="no ledger there yet"):
        keep_books(f"sqlite:///{tmp_path}/none.db", lambda books: books.balances())
    assert list(tmp_path.iterdir()) == []
