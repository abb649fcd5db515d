from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger import answers, reports
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Capture, Fund
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.reports import PaymentFilter
from fastapi_tollbooth.ledger.store import Store
from fastapi_tollbooth.ledger.tables import Moment, metadata
from fastapi_tollbooth.rails.x402 import history
from tests.databases import DATABASES, PostgresServer, sqlite_url

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


# ── indexes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

QUERIES: dict[str, Callable[[Connection], object]] = {
    "uq_tollbooth_transfer_toll_id_kind": reports.tolls,
    "ix_tollbooth_transfer_stretch_debit_account_id_id": lambda connection: list(reports.statement(connection, KEY)),
    "ix_tollbooth_transfer_credit_account_id_id": lambda connection: list(reports.statement(connection, KEY)),
    "ix_tollbooth_payment_unsettled": history.abandoned(timedelta(minutes=2), timedelta(minutes=2)),
    "ix_tollbooth_payment_account_id": lambda connection: reports.payments(connection, PaymentFilter(account=KEY)),
    "ix_tollbooth_answer_expires_at": answers._has_expired,
}


def test_every_index_has_a_query() -> None:
    assert {index.name for table in metadata.tables.values() for index in table.indexes} == set(QUERIES)


@pytest.fixture(scope="module", params=DATABASES)
def busy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A ledger with so much in it that a database looks for a way around most of it."""
    server: PostgresServer = request.getfixturevalue("postgres_server")
    made = Store(server.fresh() if request.param == "postgresql" else sqlite_url(tmp_path_factory.mktemp("busy")))
    payers = [f"l402:{number}" for number in range(300)] + [KEY]
    for payer in payers:
        made.transact([[Fund(payer, dollars(1_000), Payment("l402", payer, 1, Asset.BTC, payer))]])
    for _ in range(10):
        tolls = made.transact([[Authorize(payer, dollars(1), "/")] for payer in payers])
        made.transact([[Capture(toll.account_id, toll.toll)] for [toll] in tolls if isinstance(toll, Authorized)])
    made.execute(_keep_answers)
    yield made
    made.close()


def _keep_answers(connection: Connection) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    rows = [{"key": f"k{n}", "spend_key": "p", "request": "r", "expires_at": later} for n in range(1_000)]
    connection.execute(insert(metadata.tables["tollbooth_answer"]), rows)
    connection.exec_driver_sql("ANALYZE")


@pytest.mark.parametrize("index", QUERIES)
def test_every_index_is_used_by_its_query(busy: Store, index: str) -> None:
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    def plans(connection: Connection) -> str:
        event.listen(connection, "before_cursor_execute", note)
        QUERIES[index](connection)
        event.remove(connection, "before_cursor_execute", note)
        explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        return str([connection.exec_driver_sql(f"{explain} {query}", given).all() for query, given in asked])

    assert index in busy.execute(plans)
