import json
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
import typer
from sqlalchemy.exc import DataError, OperationalError, ProgrammingError

from fastapi_tollbooth import ConfigurationError, Money
from fastapi_tollbooth.errors import LedgerRefused
from fastapi_tollbooth.ledger.pressure import ledger_busy
from fastapi_tollbooth.ledger.store import Store
from fastapi_tollbooth.terminal import keep_books, moment, print_json, store_at, told


def test_days_and_times_are_understood() -> None:
    assert moment("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert moment("2026-01-31T01:00+02:00") == datetime(2026, 1, 30, 23, tzinfo=UTC)
    with pytest.raises(typer.BadParameter, match="ISO 8601"):
        moment("yesterday")


def test_money_and_times_are_text_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": Money.parse("$0.01"), "at": datetime(2026, 1, 31, tzinfo=UTC)})
    assert json.loads(capsys.readouterr().out) == {"a": "$0.01", "at": "2026-01-31T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ledger_busy(), "Too many requests wait"),
        (LedgerRefused("unknown_toll", "there is no such toll"), "there is no such toll"),
        (OperationalError("SELECT 'secret'", {}, OSError("secret")), "the database does not answer: OperationalError"),
        (
            ProgrammingError("SELECT 'secret'", {}, psycopg.errors.InsufficientPrivilege("denied for public\nsecret")),
            "the database does not answer: ProgrammingError: denied for public",
        ),
        (
            DataError("SELECT 'secret'", {}, psycopg.errors.InvalidTextRepresentation("secret")),
            "the database does not answer: DataError",
        ),
        (FileNotFoundError(2, "No such file or directory", "/nowhere/x"), "/nowhere/x: No such file or directory"),
    ],
)
def test_what_is_refused_is_told_without_a_traceback_and_as_people_say_it(error: Exception, message: str) -> None:
    with pytest.raises(typer.BadParameter) as told_, told():
        raise error
    assert str(told_.value).startswith(message)
    assert "secret" not in str(told_.value)


def test_what_is_misconfigured_is_told_in_plain_text_to_be_copied_from(capsys: pytest.CaptureFixture[str]) -> None:
    error = ConfigurationError("no_secret", "set it: " + "long " * 50)
    with pytest.raises(typer.Exit) as ended, told():
        raise error
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == f"Error: {error}\n"


def test_the_ledger_is_let_go_of_when_a_command_fails(tmp_path: Path) -> None:
    def fail(store: Store) -> None:
        store.upgrade()
        used.append(store)
        raise typer.Exit(1)

    used: list[Store] = []
    with pytest.raises(typer.Exit), store_at(f"sqlite:///{tmp_path}/ledger.db") as store:
        fail(store)
    assert used[0]._lock_file is None


def test_no_ledger_is_made_by_looking_for_one(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="no ledger there yet"):
        keep_books(f"sqlite:///{tmp_path}/none.db", lambda books: books.balances())
    assert list(tmp_path.iterdir()) == []
