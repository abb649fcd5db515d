import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from fastapi_tollbooth import Asset, ConfigurationError, Money, TollboothSettings
from fastapi_tollbooth.ledger import postgres
from fastapi_tollbooth.ledger.book import apply
from fastapi_tollbooth.ledger.naming import Names
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Fund
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.store import Store
from fastapi_tollbooth.ledger.tables import AccountRow, TransferRow
from tests.databases import PostgresServer


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return postgres_server.fresh()


@pytest.fixture
def store(url: str):  # type: ignore[no-untyped-def]
    made = Store(url)
    yield made
    made.close()


def one(store: Store, statement: str) -> object:
    return store.read(lambda connection: connection.exec_driver_sql(statement).scalar())


def test_a_commit_is_on_disk_whatever_the_database_s_default_is(url: str, postgres_server: PostgresServer) -> None:
    database = url.partition("?")[0].rpartition("/")[2]
    for before, after in (("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")):
        postgres_server.execute(f"ALTER DATABASE {database} SET synchronous_commit = {before}")
        store = Store(url)
        assert one(store, "SHOW synchronous_commit") == after
        assert one(store, "SHOW jit") == "off"
        store.close()


def test_what_is_saved_is_loaded_and_is_what_the_tables_say(store: Store) -> None:
    expires = datetime.now(UTC) + timedelta(days=1)
    key = "l402:a'b\"\\{},ä"

    connection = store._connect()
    with postgres.batch(connection):
        book = postgres.load(connection, Names())
        payment = Payment("l402", "p1", 21_000, Asset.BTC, "NULL", "reference", "100000.000000")
        apply(book, Fund(key, Money(100, Asset.USD), payment, expires))
        postgres.save(connection, book)
    with postgres.batch(connection):
        book = postgres.load(connection, Names(ids={2}, keys={key, "nobody"}, spend_keys={"p1", "p2"}))

    def read(connection: Connection) -> None:
        [payer] = book.accounts.values()
        assert (payer.id, payer.key, payer.posted, payer.expires_at) == (2, key, 100, expires)
        assert list(book.payments) == ["p1"]
        assert book.next_id == 10_001
        account = connection.execute(text("SELECT * FROM tollbooth_account WHERE id = 2")).mappings().one()
        assert set(account) == set(AccountRow.model_fields)
        assert account["expires_at"] == expires
        assert account["created_at"] <= datetime.now(UTC)
        transfer = connection.execute(TransferRow.__table__.select()).one()  # type: ignore[attr-defined]
        assert (transfer.kind, transfer.phase, transfer.toll_id, transfer.route) == ("fund", "post", None, None)
        assert connection.execute(text("SELECT payer FROM tollbooth_payment")).scalar() == "NULL"

    store.read(read)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg"])
def test_every_way_to_write_the_url_means_psycopg(url: str, scheme: str) -> None:
    store = Store(url.replace("postgresql", scheme, 1))
    assert one(store, "SELECT 1") == 1
    store.close()


def test_a_text_that_the_database_cannot_hold_fails_alone(store: Store) -> None:
    import asyncio

    from fastapi_tollbooth.errors import Unavailable
    from fastapi_tollbooth.ledger.writer import Ledger

    async def main(ledger: Ledger) -> None:
        payment = Payment("l402", "p1", 1, Asset.BTC, "payer")
        await ledger.apply(Fund("a", Money(100, Asset.USD), payment))
        bad, good = await asyncio.gather(
            ledger.apply(Authorize("a", Money(1, Asset.USD), "/\0")),
            ledger.apply(Authorize("a", Money(1, Asset.USD), "/")),
            return_exceptions=True,
        )
        assert isinstance(bad, Unavailable)
        assert isinstance(good, list)
        assert isinstance(good[0], Authorized)
        await ledger.close()

    ledger = Ledger("sqlite://")
    ledger._store = store
    asyncio.run(main(ledger))


def test_without_the_extra_the_error_names_it() -> None:
    script = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from fastapi_tollbooth.ledger.store import Store\n"
        "Store('postgresql://localhost/x')\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert "ConfigurationError" in finished.stderr
    assert "fastapi-tollbooth[postgres]" in finished.stderr


def test_no_password_is_in_an_error() -> None:
    for url in ("postgresql://user:hunter2", "mysql://user:hunter2@host/database", "user:hunter2@@://"):
        with pytest.raises(ConfigurationError) as error:
            Store(url)
        assert "hunter2" not in f"{error.value!r} {error.value.__cause__!r}"
    settings = TollboothSettings(_env_file=None, database_url="postgresql://user:hunter2@host/database")
    assert "hunter2" not in repr(settings) + str(settings)
