import contextlib
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.cli import main
from fastapi_tollbooth.ledger import audit
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Capture, Fund, Void
from fastapi_tollbooth.ledger.records import Cap, Payment
from fastapi_tollbooth.ledger.store import Store

KEY = "l402:aa"
CAP = Cap("narrowed", Money(50, Asset.USD))


@pytest.fixture
def store(url: str):  # type: ignore[no-untyped-def]
    made = Store(url)
    made.transact([[Fund(KEY, Money(100, Asset.USD), Payment("l402", "p1", 1, Asset.BTC, KEY))]])
    for number in range(8):
        [[toll]] = made.transact([[Authorize(KEY, Money(5, Asset.USD), "/x", (CAP,))]])
        assert isinstance(toll, Authorized)
        if number < 6:
            made.transact([[(Capture if number % 2 else Void)(toll.account_id, toll.toll)]])
    assert made.read(lambda connection: connection.execute(text("SELECT used FROM tollbooth_cap")).scalar()) == 25
    yield made
    made.close()


def test_a_right_ledger_is_right(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.read(audit.verify) == audit.Audit(3, 15, 1, 2, None)
    monkeypatch.setattr(audit, "CHUNK", 4)
    assert store.read(audit.verify) == audit.Audit(3, 15, 1, 2, None)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("UPDATE tollbooth_account SET posted = posted + 1 WHERE kind = 'payer'", "posted"),
        ("UPDATE tollbooth_account SET pending = pending - 5 WHERE kind = 'payer'", "pending"),
        ("UPDATE tollbooth_transfer SET amount = 4 WHERE phase = 'post' AND kind = 'charge'", "posted"),
        ("UPDATE tollbooth_transfer SET amount = 6 WHERE phase = 'post' AND kind = 'charge'", "more than"),
        ("DELETE FROM tollbooth_transfer WHERE phase = 'void'", "pending"),
        (
            "UPDATE tollbooth_transfer SET toll_id = 999 "
            "WHERE id = (SELECT min(id) FROM tollbooth_transfer WHERE phase = 'void')",
            "not open",
        ),
        ("UPDATE tollbooth_cap SET used = 24", "counts 24"),
        ("DELETE FROM tollbooth_cap", "counts 0"),
        ("UPDATE tollbooth_account SET asset = 'BTC' WHERE kind = 'payer'", "sum to"),
    ],
)
def test_whatever_was_changed_is_found(store: Store, damage: str, found: str, url: str) -> None:
    store.execute(lambda connection: connection.execute(text(damage)))
    assert found in str(store.read(audit.verify).discrepancy)
    store.close()
    result = CliRunner().invoke(main, ["ledger", "verify", "--database-url", url])
    assert result.exit_code == 1
    assert found in result.output


def test_transfers_of_an_account_that_is_not_there_are_found(store: Store) -> None:
    damage = "UPDATE tollbooth_transfer SET debit_account_id = 999 WHERE id = (SELECT max(id) FROM tollbooth_transfer)"
    if store.path is None:
        store.execute(lambda connection: connection.exec_driver_sql(damage))
    else:
        with contextlib.closing(sqlite3.connect(store.path)) as by_hand, by_hand:  # which looks at no foreign keys
            by_hand.execute(damage)
    assert "no such account" in str(store.read(audit.verify).discrepancy)


def test_the_command_says_so(store: Store, url: str, tmp_path: Path) -> None:
    store.close()
    result = CliRunner().invoke(main, ["ledger", "verify", "--database-url", url])
    assert (result.exit_code, result.output) == (
        0,
        "3 accounts, 15 transfers, 1 payments, 2 open tolls: every balance is right\n",
    )
    result = CliRunner().invoke(main, ["ledger", "verify", "--json", "--database-url", url])
    assert '"discrepancy": null' in result.output
    missing = CliRunner().invoke(main, ["ledger", "verify", "--database-url", f"sqlite:///{tmp_path}/none.db"])
    assert missing.exit_code == 2
    assert not (tmp_path / "none.db").exists()
