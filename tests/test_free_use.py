from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from fastapi_tollbooth.ledger.free_use import KEEP_DAYS, DailyUse, Use, add, daily, give_back, prune, take
from fastapi_tollbooth.ledger.store import Store

TODAY = date(2026, 11, 20)
ONE = Use(TODAY.isoformat(), "free_tier", "c1", 1)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    made = Store(url)
    yield made
    made.close()


def taken(store: Store, use: Use, most: int) -> int | None:
    return store.execute(lambda connection: take(connection, use, most))


def test_no_more_is_taken_than_there_is(store: Store) -> None:
    assert [taken(store, ONE, 3) for _ in range(5)] == [1, 2, 3, None, None]
    assert taken(store, ONE._replace(client="c2"), 3) == 1
    assert taken(store, ONE._replace(day="2026-11-21"), 3) == 1
    assert taken(store, ONE._replace(bucket="free_tier /x"), 3) == 1


def test_what_does_not_fit_takes_nothing(store: Store) -> None:
    assert taken(store, ONE._replace(amount=4), 3) is None
    assert taken(store, ONE._replace(amount=2), 3) == 2
    assert taken(store, ONE._replace(amount=2), 3) is None
    assert taken(store, ONE, 3) == 3


def test_what_is_given_back_can_be_taken_again_and_nothing_below_zero(store: Store) -> None:
    assert [taken(store, ONE, 1), taken(store, ONE, 1)] == [1, None]
    for _ in range(3):
        store.execute(lambda connection: give_back(connection, ONE))
    assert [taken(store, ONE, 1), taken(store, ONE, 1)] == [1, None]
    with pytest.raises(IntegrityError):
        store.execute(lambda connection: connection.execute(text("UPDATE tollbooth_free_use SET used = -1")))


def test_old_days_are_forgotten_and_the_rest_is_summed(store: Store) -> None:
    old = (TODAY - timedelta(days=KEEP_DAYS + 1)).isoformat()
    uses = [ONE, ONE, ONE._replace(client="c2", amount=5), ONE._replace(day=old)]
    store.execute(lambda connection: add(connection, uses))
    store.execute(lambda connection: prune(connection, TODAY))
    assert store.read(daily) == [DailyUse("2026-11-20", "free_tier", 2, 7)]


def test_processes_count_together(tmp_path: Path) -> None:
    stores = [Store(f"sqlite:///{tmp_path}/ledger.db") for _ in range(2)]
    found = [taken(store, ONE, 5) for _ in range(5) for store in stores]
    assert found == [1, 2, 3, 4, 5, *[None] * 5]
    for store in stores:
        store.close()
