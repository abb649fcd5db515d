from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger import sqlite
from fastapi_tollbooth.ledger.book import Fund, Payment, Pending, Transfer, apply
from fastapi_tollbooth.ledger.store import Store
from fastapi_tollbooth.ledger.tables import AccountRow, TransferRow


@pytest.fixture
def store(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = Store(f"sqlite:///{tmp_path}/ledger.db")
    yield made
    made.close()


def test_the_file_is_in_wal_mode_and_fully_synchronous(store: Store) -> None:
    def pragmas(connection: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    assert store.read(pragmas) == ["wal", 2, 1]


def test_what_is_saved_is_loaded_and_is_what_the_tables_say(store: Store) -> None:
    expires = datetime.now(UTC) + timedelta(days=1)

    def write(connection: Connection) -> None:
        book = sqlite.load(connection, [], [], [], [])
        payment = Payment("l402", "p1", 21_000, Asset.BTC, "payer", "reference", "100000.000000")
        apply(book, Fund("l402:a'b\"", Money(100, Asset.USD), payment, expires))
        sqlite.save(connection, book, [])

    def read(connection: Connection) -> None:
        book = sqlite.load(connection, [2], ["l402:a'b\"", "nobody"], [], ["p1", "p2"])
        assert [(a.id, a.key, a.posted, a.expires_at) for a in book.accounts.values()] == [
            (2, "l402:a'b\"", 100, expires)
        ]
        assert book.spent == {"p1"}
        assert book.next_id == 4
        account = connection.execute(text("SELECT * FROM tollbooth_account WHERE id = 2")).mappings().one()
        assert set(account) == set(AccountRow.model_fields)
        row = connection.execute(AccountRow.__table__.select().where(AccountRow.id == 2)).one()  # type: ignore[attr-defined]
        assert row.expires_at.replace(tzinfo=UTC) == expires
        assert row.created_at.replace(tzinfo=UTC) <= datetime.now(UTC)
        transfer = connection.execute(TransferRow.__table__.select()).one()  # type: ignore[attr-defined]
        assert (transfer.kind, transfer.phase, transfer.pending_id) == ("fund", "post", None)

    store.execute(write)
    store.read(read)


def test_pending_transfers_come_with_their_resolution(store: Store) -> None:
    def write(connection: Connection) -> None:
        book = sqlite.load(connection, [], [], [], [])
        a, b = book.open("a", "payer", Asset.USD), book.open("b", "book", Asset.USD)
        for phase, pending in (("pending", None), ("pending", None), ("void", 3)):
            book.transfers.append(Transfer(book.allocate_id(), a.id, b.id, 0, "charge", phase, pending, "/x"))  # type: ignore[arg-type]
        sqlite.save(connection, book, [])

    store.execute(write)
    book = store.read(lambda connection: sqlite.load(connection, [], [], [3, 4, 5, 99], []))
    assert book.pendings == {
        3: Pending(Transfer(3, 1, 2, 0, "charge", "pending", None, "/x"), "void"),
        4: Pending(Transfer(4, 1, 2, 0, "charge", "pending", None, "/x"), None),
    }
