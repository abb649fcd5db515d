from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Capture, Fund
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.store import Store
from fastapi_tollbooth.ledger.tables import Moment, metadata

KEY = "l402:aa"


def dollars(amount: int) -> Money:
    return Money(amount, Asset.USD)


@pytest.fixture
def store(url: str):  # type: ignore[no-untyped-def]
    made = Store(url)
    yield made
    made.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tollbooth_account SET posted = -1 WHERE kind = 'payer'",
        "UPDATE tollbooth_account SET pending = 101 WHERE kind = 'payer'",
        "INSERT INTO tollbooth_transfer SELECT id + 100, debit_account_id, credit_account_id, amount, kind, phase, "
        "toll_id, route, created_at FROM tollbooth_transfer WHERE phase = 'post' AND toll_id IS NOT NULL",
        "UPDATE tollbooth_transfer SET amount = -1",
        "UPDATE tollbooth_transfer SET toll_id = NULL WHERE kind = 'charge'",
    ],
)
def test_the_database_itself_refuses_what_must_not_be(store: Store, statement: str) -> None:
    [[_, toll]] = store.transact(
        [[Fund(KEY, dollars(100), Payment("l402", "p1", 1, Asset.BTC, KEY)), Authorize(KEY, dollars(30), "/")]]
    )
    assert isinstance(toll, Authorized)
    store.transact([[Capture(toll.account_id, toll.toll)]])
    with pytest.raises(IntegrityError):
        store.execute(lambda connection: connection.execute(text(statement)))


def test_the_host_application_s_metadata_does_not_see_the_tables() -> None:
    assert not [name for name in SQLModel.metadata.tables if name.startswith("tollbooth")]
    assert all(name.startswith("tollbooth_") for name in metadata.tables)


def test_moments_are_utc_whatever_zone_they_came_in_and_the_session_is_in(store: Store) -> None:
    # SQLite keeps no zone at all, and PostgreSQL answers in the session's.
    caps = metadata.tables["tollbooth_cap"]
    moment = datetime(2026, 7, 1, 23, 30, tzinfo=timezone(timedelta(hours=-5)))

    def kept(connection: Connection) -> datetime:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL TIME ZONE 'Asia/Tokyo'"))
        connection.execute(insert(caps).values(key="k", used=1, updated_at=moment))
        found = connection.execute(select(caps.c.updated_at).where(caps.c.updated_at == moment)).scalar_one()
        assert isinstance(found, datetime)
        return found

    found = store.execute(kept)
    assert found == moment
    assert found.tzinfo is UTC


def test_every_time_in_the_tables_is_a_moment() -> None:
    times = [column for table in metadata.tables.values() for column in table.columns if column.name.endswith("_at")]
    assert times
    assert all(isinstance(column.type, Moment) for column in times)
