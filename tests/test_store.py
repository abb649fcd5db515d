"""The ledger in real databases: what is committed, what is loaded, what another process did meanwhile."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from fastapi_tollbooth import Asset, ConfigurationError, Money
from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.ledger.operations import (
    Authorize,
    Authorized,
    Capture,
    Corrected,
    Fund,
    Funded,
    Operation,
    Outcome,
    Reason,
    Reconcile,
    Refund,
    Refused,
    Resolved,
    Void,
)
from fastapi_tollbooth.ledger.records import Cap, Payment
from fastapi_tollbooth.ledger.store import Store
from tests.databases import DATABASES, PostgresServer, sqlite_url
from tests.ledger_machine import LedgerMachine

KEY = "l402:aa"


def dollars(amount: int) -> Money:
    return Money(amount, Asset.USD)


def fund(amount: int, spend_key: str = "p1", account: str = KEY) -> Fund:
    return Fund(account, dollars(amount), Payment("l402", spend_key, 21_000, Asset.BTC, account, rate="100000.000000"))


def count(store: Store, table: str) -> int:
    return store.read(lambda connection: int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()))


@pytest.fixture
def store(url: str):  # type: ignore[no-untyped-def]
    made = Store(url)
    yield made
    made.close()


def test_a_batch_is_one_transaction_and_outlives_the_process(store: Store, url: str) -> None:
    [[funded, toll]] = store.transact([[fund(100), Authorize(KEY, dollars(30), "/w")]])
    assert isinstance(funded, Funded)
    assert isinstance(toll, Authorized)
    other = Store(url)
    assert other.transact([[Capture(toll.account_id, toll.toll)]]) == [[Resolved("post")]]
    [[left]] = other.transact([[Authorize(toll.account_id, dollars(70), "/w")]])
    assert isinstance(left, Authorized)
    assert left.balance == dollars(0)
    other.close()
    assert count(store, "tollbooth_transfer") == 4
    assert count(store, "tollbooth_payment") == 1


def test_groups_stop_at_their_first_refusal_and_do_not_touch_each_other(store: Store) -> None:
    outcomes = store.transact(
        [
            [fund(10), Authorize(KEY, dollars(30), "/"), Authorize(KEY, dollars(1), "/")],
            [Authorize(KEY, dollars(10), "/")],
        ]
    )
    assert [len(group) for group in outcomes] == [2, 1]
    assert outcomes[0][1] == Refused(Reason.INSUFFICIENT, dollars(10))
    assert isinstance(outcomes[1][0], Authorized)


def test_what_another_process_did_is_seen_by_the_next_batch(store: Store, url: str) -> None:
    other = Store(url)
    [[_, toll]] = store.transact([[fund(100), Authorize(KEY, dollars(60), "/")]])
    assert isinstance(toll, Authorized)
    assert other.transact([[Authorize(KEY, dollars(60), "/")]]) == [[Refused(Reason.INSUFFICIENT, dollars(40))]]
    assert other.transact([[Void(toll.account_id, toll.toll)]]) == [[Resolved("void")]]
    assert store.transact([[Capture(toll.account_id, toll.toll)]]) == [[Resolved("void")]]
    [[again]] = other.transact([[fund(100)]])
    assert isinstance(again, Funded)
    assert not again.new
    other.close()


def test_large_batches_of_any_size(store: Store) -> None:
    store.transact([[fund(10_000)]])
    total = 0
    for size in (1, 2, 3, 5, 31, 64, 65, 300):
        outcomes = store.transact([[Authorize(KEY, dollars(1), "/")] for _ in range(size)])
        tolls = [outcome for [outcome] in outcomes if isinstance(outcome, Authorized)]
        assert len(tolls) == size
        store.transact([[Capture(toll.account_id, toll.toll)] for toll in tolls])
        total += size
    [[left]] = store.transact([[Authorize(KEY, dollars(0), "/")]])
    assert isinstance(left, Authorized)
    assert left.balance == dollars(10_000 - total)


def test_what_another_process_resolved_can_be_corrected_where_it_was_promised(store: Store, url: str) -> None:
    opened = store.transact([[fund(1_000)], *([Authorize(KEY, dollars(30), "/w")] for _ in range(4))])[1:]
    kept, refunded, voided, captured = (toll for [toll] in opened if isinstance(toll, Authorized))
    other = Store(url)
    other.transact([[Capture(toll.account_id, toll.toll)] for toll in (kept, refunded)])
    other.transact([[Void(voided.account_id, voided.toll)]])
    other.close()
    corrections: list[Operation] = [
        Reconcile(kept.account_id, kept.toll, 20),
        *(Refund(toll.account_id, toll.toll) for toll in (refunded, voided)),
    ]
    assert store.transact([[correction] for correction in corrections]) == [
        [Corrected(dollars(20), dollars(920), new=True)],
        [Corrected(dollars(0), dollars(950), new=True)],
        [Refused(Reason.NOT_CHARGED, dollars(950))],
    ]
    both: list[Operation] = [Capture(captured.account_id, captured.toll), Refund(captured.account_id, captured.toll)]
    assert store.transact([both]) == [[Resolved("post"), Corrected(dollars(0), dollars(980), new=True)]]
    assert store.read(verify).discrepancy is None


def test_later_rows_have_higher_ids_across_processes(store: Store, url: str) -> None:
    other = Store(url)
    store.transact([[fund(100)]])
    tolls = []
    for each in (store, other, store, other):
        [[toll]] = each.transact([[Authorize(KEY, dollars(1), "/")]])
        assert isinstance(toll, Authorized)
        tolls.append(toll.toll)
    other.close()
    assert tolls == sorted(tolls)
    if not url.startswith("sqlite"):
        return
    ids = store.read(
        lambda connection: connection.execute(text("SELECT id FROM tollbooth_transfer ORDER BY id")).scalars().all()
    )
    accounts = store.read(
        lambda connection: connection.execute(text("SELECT id FROM tollbooth_account")).scalars().all()
    )
    assert sorted([*ids, *accounts]) == list(range(1, len(ids) + len(accounts) + 1))


def test_a_failed_batch_leaves_nothing_behind(store: Store, url: str) -> None:
    store.transact([[fund(100)]])

    def fail(connection: Connection) -> None:
        connection.execute(text("DELETE FROM tollbooth_payment"))
        raise OSError("power cut")

    with pytest.raises(OSError, match="power cut"):
        store.execute(fail)
    assert count(store, "tollbooth_payment") == 1


def test_a_database_that_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/missing/ledger.db")
    with pytest.raises((OperationalError, FileNotFoundError)):
        store.transact([[fund(1)]])
    (tmp_path / "missing").mkdir()
    [[funded]] = store.transact([[fund(1)]])
    assert isinstance(funded, Funded)
    store.close()


def test_a_closed_store_opens_again(store: Store) -> None:
    store.transact([[fund(100)]])
    store.close()
    [[again]] = store.transact([[fund(100)]])
    assert isinstance(again, Funded)
    assert not again.new


def test_only_known_databases() -> None:
    with pytest.raises(ConfigurationError, match="SQLite"):
        Store("mysql://host/database")


class _Stored:
    """A store as a keeper of books."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store, self.other = Store(url), Store(url)

    def run(self, operation: Operation) -> Outcome:
        return self.store.transact([[operation]])[0][0]

    def crash(self) -> None:
        self.store.close()
        self.store = Store(self.url)

    def hand_over(self, reconnects: bool) -> None:
        if reconnects:
            self.other.close()
        self.store, self.other = self.other, self.store

    def balances(self) -> dict[str, tuple[int, int]]:
        columns = text("SELECT key, posted, pending FROM tollbooth_account")
        return {key: (a, b) for key, a, b in self.store.read(lambda connection: connection.execute(columns).all())}

    def uses(self) -> dict[str, int]:
        rows = text("SELECT key, used FROM tollbooth_cap")
        return dict(tuple(row) for row in self.store.read(lambda connection: connection.execute(rows).all()))

    def problem(self) -> str | None:
        return self.store.read(verify).discrepancy

    def close(self) -> None:
        self.store.close()
        self.other.close()


@pytest.mark.parametrize("database", DATABASES)
def test_any_order_of_operations(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    def fresh() -> str:
        if database == "sqlite":
            return sqlite_url(Path(tempfile.mkdtemp(dir=tmp_path)))
        server: PostgresServer = request.getfixturevalue("postgres_server")
        return server.fresh()

    class StoreMachine(LedgerMachine):
        def make_keeper(self) -> _Stored:
            return _Stored(fresh())

    examples = settings(max_examples=15, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(StoreMachine, settings=examples)


def test_caps_hold_across_processes_and_get_back_what_was_not_used(store: Store, url: str) -> None:
    cap = Cap("narrowed", dollars(50))
    [[_, first]] = store.transact([[fund(1_000), Authorize(KEY, dollars(30), "/w", (cap,))]])
    assert isinstance(first, Authorized)
    other = Store(url)
    [[refused]] = other.transact([[Authorize(KEY, dollars(30), "/w", (cap,))]])
    assert refused == Refused(Reason.CAPPED, dollars(20))
    other.transact([[Capture(first.account_id, first.toll, 10)]])
    more, too_much = Authorize(KEY, dollars(40), "/w", (cap,)), Authorize(KEY, dollars(1), "/w", (cap,))
    [[second], [third]] = store.transact([[more], [too_much]])
    assert isinstance(second, Authorized)
    assert third == Refused(Reason.CAPPED, dollars(0))
    for toll in (first, second):  # the first is spent, and gives nothing back
        store.transact([[Void(toll.account_id, toll.toll)]])
    [[last]] = other.transact([[Authorize(KEY, dollars(40), "/w", (cap,))]])
    assert isinstance(last, Authorized)
    other.close()


CAP = Cap("narrowed", dollars(50))


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another process"])
@pytest.mark.parametrize(
    ("back", "used"),
    [
        ([Void], 0),  # as the sweeper does, too
        ([lambda account, toll: Capture(account, toll, 10)], 10),
        ([Capture, Refund], 0),
        ([Capture, lambda account, toll: Refund(account, toll, 10)], 20),
        ([Capture, lambda account, toll: Reconcile(account, toll, 12)], 12),
        ([lambda account, toll: Capture(account, toll, 10), lambda account, toll: Reconcile(account, toll, 25)], 25),
        ([Void, lambda account, toll: Capture(account, toll, 10, served=True)], 10),
        ([Void, lambda account, toll: Capture(account, toll, served=True), Refund], 0),
    ],
    ids=["void", "part", "refund", "part refunded", "less in the end", "more in the end", "late", "late and refunded"],
)
def test_what_comes_back_is_the_cap_s_again(
    store: Store, url: str, back: list[Callable[[int, int], Operation]], used: int, elsewhere: bool
) -> None:
    [[_, toll]] = store.transact([[fund(1_000), Authorize(KEY, dollars(30), "/w", (CAP,))]])
    assert isinstance(toll, Authorized)
    other = Store(url) if elsewhere else store
    for operation in back:
        for _ in range(2):  # what is done again changes nothing
            other.transact([[operation(toll.account_id, toll.toll)]])
    left = 50 - used
    too_much = Authorize(KEY, dollars(left + 1), "/w", (CAP,))
    assert store.transact([[too_much]]) == [[Refused(Reason.CAPPED, dollars(left))]]
    [[all_of_it]] = store.transact([[Authorize(KEY, dollars(left), "/w", (CAP,))]])
    assert isinstance(all_of_it, Authorized)
    if elsewhere:
        other.close()


@pytest.mark.parametrize("late", [False, True])
def test_what_is_charged_afterwards_is_within_the_cap(store: Store, late: bool) -> None:
    [[_, first]] = store.transact([[fund(1_000), Authorize(KEY, dollars(30), "/w", (CAP,))]])
    assert isinstance(first, Authorized)
    toll = (first.account_id, first.toll)
    store.transact([[Void(*toll) if late else Capture(*toll, 0)], [Authorize(KEY, dollars(45), "/w", (CAP,))]])
    store.transact([[Capture(*toll, served=True) if late else Reconcile(*toll, 30)]])
    [[left]] = store.transact([[Authorize(KEY, dollars(0), "/w")]])
    assert isinstance(left, Authorized)
    assert left.balance == dollars(1_000 - 45 - 5)


def test_new_money_keeps_the_old_alive_across_processes(store: Store, url: str) -> None:
    over, later = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    store.transact([[replace(fund(100), expires_at=over)]])
    assert store.transact([[Authorize(KEY, dollars(1), "/w")]]) == [[Refused(Reason.EXPIRED)]]
    other = Store(url)
    other.transact([[replace(fund(100, "p2"), expires_at=later)]])
    [[toll]] = store.transact([[Authorize(KEY, dollars(150), "/w")]])
    assert isinstance(toll, Authorized)
    other.close()
