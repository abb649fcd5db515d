"""What a process remembers of its ledger: never anything that is not, or not any more, in the database."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import SQLAlchemyError

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger import memory, sqlite
from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.ledger.memory import Memory
from fastapi_tollbooth.ledger.naming import Names
from fastapi_tollbooth.ledger.operations import (
    Authorize,
    Authorized,
    Capture,
    Fund,
    Operation,
    Outcome,
    Reason,
    Refused,
    Resolved,
    Revoke,
)
from fastapi_tollbooth.ledger.records import Account, Book, Charge, Payment
from fastapi_tollbooth.ledger.store import Store
from tests.databases import sqlite_url

KEY = "l402:aa"


def usd(amount: int) -> Money:
    return Money(amount, Asset.USD)


def fund(amount: int, spend_key: str = "p1", account: str = KEY) -> Fund:
    return Fund(account, usd(amount), Payment("l402", spend_key, amount, Asset.USD, account))


def written(*accounts: Account, next_id: int = 9) -> Book:
    book = Book(SimpleNamespace(), next_id)  # type: ignore[arg-type]
    book.add(accounts)
    return book


ALICE = Account(1, "alice", "payer", Asset.USD, 100, 30)


def acquainted(version: int = 5) -> Memory:
    """A memory that has seen Alice, and that there is no Bob."""
    made = Memory()
    assert made.book(Names(keys={"alice", "bob"}), version) is None
    made.remember(written(ALICE), Names(keys={"alice", "bob"}))
    return made


def test_what_a_batch_left_is_there_for_the_next_by_id_and_by_key() -> None:
    for about in (Names(ids={1}), Names(keys={"alice"}), Names(ids={1}, keys={"alice", "bob"})):
        book = acquainted().book(about, 5)
        assert book is not None
        assert (book.accounts, book.find("alice"), book.find("bob"), book.next_id) == ({1: ALICE}, ALICE, None, 9)
        assert book.changed() == []


def test_an_account_is_one_whether_it_is_named_by_id_or_by_key() -> None:
    known = acquainted()
    anew = Account(1, "alice", "payer", Asset.USD, 70, 0)
    known.remember(written(anew), Names())  # a batch that had to be loaded, and named it by id
    book = known.book(Names(keys={"alice"}), 5)
    assert book is not None
    assert book.find("alice") is anew


@pytest.mark.parametrize(
    "about",
    [
        Names(ids={2}),
        Names(keys={"carol"}),
        Names(ids={1}, tolls={7}),
        Names(ids={1}, spend_keys={"p1"}),
        Names(ids={1}, caps={"narrowed"}),
    ],
)
def test_a_batch_about_anything_else_is_loaded(about: Names) -> None:
    known = acquainted()
    assert known.book(about, 5) is None
    assert known.book(Names(ids={1}), 5) is not None


@pytest.mark.parametrize("version", [None, 4, 6])
def test_nothing_is_remembered_once_somebody_else_has_written(version: int | None) -> None:
    known = acquainted()
    assert known.book(Names(ids={1}), version) is None
    assert known.book(Names(ids={1}), 5) is None


def test_what_is_forgotten_is_not_known() -> None:
    known = acquainted()
    known.remember(written(), Names())
    known.forget_accounts()
    assert known.book(Names(ids={1}), 5) is None
    charge = Charge(7, 1, 2, 10, "/")
    book = written()
    book.charges[7] = charge
    known.remember(book, Names())
    known.forget()
    assert known.take_tolls([7]) == {}


def test_a_toll_that_was_asked_for_and_is_still_open_is_looked_up_the_next_time() -> None:
    for asked in (Names(resolving={7}), Names(tolls={7})):
        known, book = Memory(), written()
        book.charges |= {7: Charge(7, 1, 2, 10, "/"), 8: Charge(8, 1, 2, 10, "/")}
        known.remember(book, asked)
        assert list(known.take_tolls([7, 8])) == [8]


def test_a_past_that_is_older_than_what_is_remembered_is_noticed() -> None:
    known = acquainted()
    assert [known.is_ahead_of(written(next_id=next_id)) for next_id in (8, 9, 10)] == [True, False, False]
    known.forget_accounts()
    assert known.is_ahead_of(written(next_id=8))
    known.forget()
    assert not known.is_ahead_of(written(next_id=8))


def test_open_tolls_are_taken_and_resolved_ones_are_not_kept() -> None:
    known, book = Memory(), written()
    open_, resolved = Charge(7, 1, 2, 10, "/"), Charge(8, 1, 2, 10, "/", "post", 10)
    book.charges |= {7: open_, 8: resolved}
    known.remember(book, Names())
    assert known.take_tolls([7, 8, 9]) == {7: open_}
    assert known.take_tolls([7]) == {}


def test_it_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ACCOUNTS", 2)
    monkeypatch.setattr(memory, "OPEN_TOLLS", 1)
    known = acquainted()
    assert known.book(Names(keys={"alice"}), 5) is not None
    known.remember(written(Account(2, "carol", "payer", Asset.USD)), Names(keys={"carol"}))
    assert known.book(Names(keys={"carol"}), 5) is None
    book = written()
    book.charges |= {7: Charge(7, 1, 2, 10, "/"), 8: Charge(8, 1, 2, 10, "/")}
    known.remember(book, Names())
    assert known.take_tolls([7, 8]) == {}


# ── in a database ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(sqlite_url(tmp_path))
    yield made
    made.close()


def run(store: Store, operation: Operation) -> Outcome:
    [[outcome]] = store.transact([[operation]])
    return outcome


def left(outcome: Outcome) -> int:
    assert isinstance(outcome, Authorized)
    return outcome.balance.amount


def test_a_batch_about_known_accounts_loads_nothing(store: Store) -> None:
    run(store, fund(100))
    toll = run(store, Authorize(KEY, usd(1), "/"))
    assert isinstance(toll, Authorized)
    statements: list[str] = []
    driver: Any = store._connect().connection.driver_connection
    driver.set_trace_callback(lambda sql: statements.append(sql.split()[0]))
    again = run(store, Authorize(toll.account_id, usd(1), "/"))
    assert isinstance(again, Authorized)
    assert run(store, Capture(toll.account_id, toll.toll)) == Resolved("post")
    assert statements == 2 * ["BEGIN", "PRAGMA", "UPDATE", "INSERT", "COMMIT"]
    assert left(run(store, Authorize(KEY, usd(0), "/"))) == 98


@pytest.mark.parametrize("how", ["closed", "lost"])
def test_another_connection_begins_with_an_empty_memory(
    store: Store, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A new connection gives the version that the last one gave, whoever wrote in between.
    run(store, fund(100))
    assert left(run(store, Authorize(KEY, usd(10), "/"))) == 90
    if how == "closed":
        store.close()
    else:
        monkeypatch.setattr(sqlite, "END_READ", "COMMIT; nonsense")
        with pytest.raises(SQLAlchemyError):
            store.read(lambda connection: connection.exec_driver_sql("ROLLBACK"))
        monkeypatch.undo()
    other = Store(str(store._engine.url))
    run(other, Revoke(KEY))
    other.close()
    assert run(store, Authorize(KEY, usd(10), "/")) == Refused(Reason.REVOKED)
    assert store._memory._version is not None


def test_an_older_state_that_is_restored_under_the_connection_is_the_truth(store: Store, tmp_path: Path) -> None:
    run(store, fund(100))
    kept = run(store, Authorize(KEY, usd(10), "/"))
    with closing(sqlite3.connect(str(store.path))) as live, closing(sqlite3.connect(tmp_path / "backup.db")) as backup:
        live.backup(backup)
        lost = [run(store, Authorize(KEY, usd(1), "/")) for _ in range(3)]
        backup.backup(live)
    assert isinstance(kept, Authorized)
    for toll in lost:
        assert isinstance(toll, Authorized)
        assert run(store, Capture(toll.account_id, toll.toll)) == Refused(Reason.UNKNOWN_TOLL)
    assert run(store, Capture(kept.account_id, kept.toll)) == Resolved("post")
    assert left(run(store, Authorize(KEY, usd(0), "/"))) == 90
    assert store.read(verify).discrepancy is None


def test_a_change_by_hand_is_seen(store: Store) -> None:
    run(store, fund(100))
    assert left(run(store, Authorize(KEY, usd(10), "/"))) == 90
    with sqlite3.connect(str(store.path)) as by_hand:
        by_hand.execute("UPDATE tollbooth_account SET revoked = true WHERE key = ?", (KEY,))
    by_hand.close()
    assert run(store, Authorize(KEY, usd(10), "/")) == Refused(Reason.REVOKED)


def test_a_change_past_the_rules_on_the_same_connection_is_seen(store: Store) -> None:
    run(store, fund(100))
    assert left(run(store, Authorize(KEY, usd(10), "/"))) == 90
    revoke = f"UPDATE tollbooth_account SET revoked = true WHERE key = '{KEY}'"
    store.execute(lambda connection: connection.exec_driver_sql(revoke))
    assert run(store, Authorize(KEY, usd(10), "/")) == Refused(Reason.REVOKED)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_batch_that_fails_has_changed_nothing(store: Store, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(store, fund(100))
    toll = run(store, Authorize(KEY, usd(10), "/"))
    assert isinstance(toll, Authorized)
    save = sqlite.save

    def failing(connection: Any, book: Book) -> None:
        if when == "after":
            save(connection, book)
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "save", failing)
        for operation in (Capture(toll.account_id, toll.toll), Authorize(toll.account_id, usd(50), "/")):
            with pytest.raises(OSError, match="full"):
                run(store, operation)
    assert left(run(store, Authorize(KEY, usd(0), "/"))) == 90
    assert run(store, Capture(toll.account_id, toll.toll)) == Resolved("post")
    assert left(run(store, Authorize(toll.account_id, usd(90), "/"))) == 0
