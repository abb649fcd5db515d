import asyncio
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.errors import Unavailable
from fastapi_tollbooth.ledger import sqlite
from fastapi_tollbooth.ledger.book import apply
from fastapi_tollbooth.ledger.naming import Names
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Fund, Funded, Void
from fastapi_tollbooth.ledger.records import Charge, Payment, PaymentRecord, PaymentState
from fastapi_tollbooth.ledger.store import Store
from fastapi_tollbooth.ledger.tables import AccountRow, TransferRow
from fastapi_tollbooth.ledger.writer import Ledger

PAYMENT = Payment("l402", "p1", 21_000, Asset.BTC, "payer", "reference", "100000.000000")


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
        book = sqlite.load(connection, Names())
        apply(book, Fund("l402:a'b\"", Money(100, Asset.USD), PAYMENT, expires))
        sqlite.save(connection, book)

    def read(connection: Connection) -> None:
        book = sqlite.load(connection, Names(ids={2}, keys={"l402:a'b\"", "nobody"}, spend_keys={"p1", "p2"}))
        assert [(a.id, a.key, a.posted, a.expires_at) for a in book.accounts.values() if a.kind == "payer"] == [
            (2, "l402:a'b\"", 100, expires)
        ]
        assert book.payments == {"p1": PaymentRecord(PAYMENT, 2, PaymentState.SETTLED)}
        assert book.next_id == 4
        account = connection.execute(text("SELECT * FROM tollbooth_account WHERE id = 2")).mappings().one()
        assert set(account) == set(AccountRow.model_fields)
        row = connection.execute(AccountRow.__table__.select().where(AccountRow.id == 2)).one()  # type: ignore[attr-defined]
        assert row.expires_at.replace(tzinfo=UTC) == expires
        assert row.created_at.replace(tzinfo=UTC) <= datetime.now(UTC)
        transfer = connection.execute(TransferRow.__table__.select()).one()  # type: ignore[attr-defined]
        assert (transfer.kind, transfer.phase, transfer.toll_id) == ("fund", "post", None)

    store.execute(write)
    store.read(read)


def test_tolls_come_with_all_that_has_become_of_them(store: Store) -> None:
    def write(connection: Connection) -> None:
        book = sqlite.load(connection, Names())
        a, b = book.open("a", "payer", Asset.USD), book.open("b", "book", Asset.USD)
        for _ in range(3):
            book.write(a.id, b.id, 9, "charge", "pending", 0, "/x")
        book.write(a.id, b.id, 0, "charge", "void", 3, "/x")
        book.write(a.id, b.id, 7, "charge", "post", 5, "/x")
        book.write(b.id, a.id, 2, "refund", "post", 5, "/x")
        book.write(a.id, b.id, 1, "adjust", "post", 5, "/x")
        sqlite.save(connection, book)

    store.execute(write)
    book = store.read(lambda connection: sqlite.load(connection, Names(tolls={3, 4, 5, 6, 99})))
    assert book.charges == {
        3: Charge(3, 1, 2, 9, "/x", "void"),
        4: Charge(4, 1, 2, 9, "/x"),
        5: Charge(5, 1, 2, 9, "/x", "post", 7, 2, 1),
    }


def test_a_text_that_the_database_cannot_hold_fails_alone(store: Store) -> None:
    async def main(ledger: Ledger) -> None:
        [funded] = await ledger.apply(Fund("a", Money(100, Asset.USD), PAYMENT))
        assert isinstance(funded, Funded)
        driver: Any = store._connect().connection.driver_connection
        driver.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 20_000)
        bad, good = await asyncio.gather(
            ledger.apply(Authorize("a", Money(1, Asset.USD), "/" * 30_000)),
            ledger.apply(Authorize("a", Money(1, Asset.USD), "/")),
            return_exceptions=True,
        )
        assert isinstance(bad, Unavailable)
        assert isinstance(good, list)
        assert isinstance(good[0], Authorized)
        assert good[0].balance == Money(99, Asset.USD)
        ledger.apply_later(Authorize("a", Money(1, Asset.USD), "/" * 30_000))
        await ledger.apply(Void(funded.account_id, good[0].toll))
        # Nor is it tried for ever.
        await asyncio.sleep(0.1)
        assert ledger.stats().owed == 0
        await ledger.close()

    ledger = Ledger("sqlite://")
    ledger._store = store
    asyncio.run(main(ledger))
