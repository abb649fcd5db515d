"""What the books say, on both databases: after tolls that were captured, voided, corrected, and claims of payments."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import Connection, func, select, text, update

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger import reports
from fastapi_tollbooth.ledger.operations import (
    Authorize,
    Authorized,
    BeginSettlement,
    Capture,
    Claim,
    Claimed,
    CompleteSettlement,
    Fund,
    Reconcile,
    Refund,
    Void,
)
from fastapi_tollbooth.ledger.records import Payment, PaymentState
from fastapi_tollbooth.ledger.reports import PaymentFilter, TollFilter
from fastapi_tollbooth.ledger.store import Store
from fastapi_tollbooth.ledger.tables import STRETCH, metadata

ALICE, BOB, PAYER = "l402:aa", "l402:bb", "x402:0xcc"


def usd(amount: int) -> Money:
    return Money(amount, Asset.USD)


TRANSFER = metadata.tables["tollbooth_transfer"]


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    made = Store(url)
    fill(made)
    yield made
    made.close()


def toll(store: Store, account: str, amount: int, route: str) -> Authorized:
    [[outcome]] = store.transact([[Authorize(account, usd(amount), route)]])
    assert isinstance(outcome, Authorized)
    return outcome


def fill(store: Store) -> None:
    for account, amount in ((ALICE, 1_000), (BOB, 500)):
        payment = Payment("l402", f"{account}:paid", 21_000, Asset.BTC, account, rate="100000")
        store.transact([[Fund(account, usd(amount), payment)]])
    captured = toll(store, ALICE, 100, "/a")
    voided = toll(store, ALICE, 200, "/b")
    toll(store, ALICE, 300, "/a")
    corrected = toll(store, BOB, 50, "/a")
    store.transact([[Capture(captured.account_id, captured.toll, 60)], [Void(voided.account_id, voided.toll)]])
    store.transact([[Capture(corrected.account_id, corrected.toll)]])
    store.transact(
        [[Reconcile(corrected.account_id, corrected.toll, 30)], [Refund(corrected.account_id, corrected.toll, 10)]]
    )
    claim = Claim(Payment("x402", "x402:1", 80, Asset.USD, "0xcc"), PAYER, usd(80), "/c")
    [[claimed]] = store.transact([[claim]])
    assert isinstance(claimed, Claimed)
    store.transact([[BeginSettlement("x402:1", claimed.toll)], [CompleteSettlement("x402:1", "0xfeed", usd(80))]])


def test_a_balance_says_what_is_held(store: Store) -> None:
    alice = store.read(lambda connection: reports.balance(connection, ALICE))
    assert alice == (ALICE, usd(640), usd(300), False, None)
    assert store.read(lambda connection: reports.balance(connection, "nobody")) is None
    keys = [found.account for found in store.read(reports.balances)]
    assert keys == [PAYER, BOB, ALICE]


def test_a_statement_has_the_balance_after_each_movement(store: Store) -> None:
    entries = store.read(lambda connection: list(reports.statement(connection, BOB)))
    assert [(entry.kind, entry.amount, entry.balance, entry.route) for entry in entries] == [
        ("fund", 500, 500, None),
        ("charge", -50, 450, "/a"),
        ("adjust", 20, 470, "/a"),
        ("refund", 10, 480, "/a"),
    ]
    assert len({entry.toll for entry in entries[1:]}) == 1
    assert store.read(lambda connection: reports.balance(connection, BOB)).available == usd(480)  # type: ignore[union-attr]


def test_the_statement_of_all_is_that_of_each(store: Store) -> None:
    everything = store.read(lambda connection: list(reports.statement(connection)))
    for account in (ALICE, BOB, PAYER):
        alone = store.read(lambda connection, of=account: list(reports.statement(connection, of)))  # type: ignore[misc]
        assert [entry for entry in everything if entry.account == account] == alone
        assert alone
    assert [entry.id for entry in everything] == sorted(entry.id for entry in everything)


def test_long_statements_are_read_in_chunks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = store.read(lambda connection: list(reports.statement(connection)))
    monkeypatch.setattr(reports, "CHUNK", 2)
    assert store.read(lambda connection: list(reports.statement(connection))) == whole


def test_a_statement_goes_from_stretch_to_stretch_of_the_journal(store: Store) -> None:
    first = store.read(lambda connection: list(reports.statement(connection, BOB)))
    last = store.read(lambda connection: connection.execute(select(func.max(TRANSFER.c.id))).scalar_one())
    # Copies of what Bob did, at the ends of stretches and beyond as many as are looked through at once.
    begins = [(last // STRETCH + number) * STRETCH for number in (1, 2, 7, 8, 9, 40)]
    ids = [*begins, *(begin - 1 for begin in begins)]
    columns = [column.name for column in TRANSFER.columns if column.name not in ("id", "toll_id")]
    spent = first[1].id
    copy = f"INSERT INTO tollbooth_transfer (id, toll_id, {', '.join(columns)}) SELECT :id, :id, {', '.join(columns)} "
    for id_ in ids:
        statement = text(f"{copy} FROM tollbooth_transfer WHERE id = {spent}").bindparams(id=id_)
        store.execute(partial(Connection.execute, statement=statement))
    entries = store.read(lambda connection: list(reports.statement(connection, BOB)))
    assert [entry.id for entry in entries] == [entry.id for entry in first] + sorted(ids)
    assert entries[-1].balance == first[-1].balance - 50 * len(ids)


def test_a_period_begins_with_the_balance_before_it(store: Store) -> None:
    [first, *rest] = store.read(lambda connection: list(reports.statement(connection, BOB)))
    later = first.at + timedelta(microseconds=1)
    assert store.read(lambda connection: list(reports.statement(connection, BOB, later))) == rest
    assert store.read(lambda connection: list(reports.statement(connection, BOB, until=later))) == [first]
    without_zone = later.replace(tzinfo=None)
    assert store.read(lambda connection: list(reports.statement(connection, BOB, until=without_zone))) == [first]


def test_no_movement_is_between_two_periods_because_clocks_differ(store: Store) -> None:
    whole = store.read(lambda connection: list(reports.statement(connection)))
    last, turn = whole[-1].id, whole[-1].at - timedelta(seconds=30)

    def set_back(connection: Connection) -> None:
        connection.execute(update(TRANSFER).where(TRANSFER.c.id == last).values(created_at=turn - timedelta(seconds=1)))

    store.execute(set_back)
    before = store.read(lambda connection: list(reports.statement(connection, until=turn)))
    after = store.read(lambda connection: list(reports.statement(connection, since=turn)))
    assert [entry.id for entry in before] == [last]
    assert [entry.id for entry in after] == [entry.id for entry in whole[:-1]]


def test_tolls_say_what_was_held_and_what_they_cost(store: Store) -> None:
    found = store.read(reports.tolls)
    assert [(entry.account, entry.route, entry.state, entry.held.amount, entry.cost.amount) for entry in found] == [
        (PAYER, "/c", "captured", 80, 80),
        (BOB, "/a", "captured", 50, 20),
        (ALICE, "/a", "open", 300, 0),
        (ALICE, "/b", "voided", 200, 0),
        (ALICE, "/a", "captured", 100, 60),
    ]


def test_tolls_are_filtered(store: Store) -> None:
    def costs(which: TollFilter) -> list[int]:
        return [entry.cost.amount for entry in store.read(lambda connection: reports.tolls(connection, which))]

    assert costs(TollFilter(account=ALICE)) == [0, 0, 60]
    assert costs(TollFilter(route="/a")) == [20, 0, 60]
    assert costs(TollFilter(state="open")) == [0]
    assert costs(TollFilter(state="voided")) == [0]
    assert costs(TollFilter(state="captured", limit=2)) == [80, 20]
    for now in (datetime.now(UTC), datetime.now(UTC).replace(tzinfo=None)):
        assert costs(TollFilter(since=now)) == []
        assert costs(TollFilter(until=now, limit=1)) == [80]


def test_payments_are_listed_and_filtered(store: Store) -> None:
    found = store.read(reports.payments)
    assert [(entry.rail, entry.account, entry.state) for entry in found] == [
        ("x402", PAYER, PaymentState.SETTLED),
        ("l402", BOB, PaymentState.SETTLED),
        ("l402", ALICE, PaymentState.SETTLED),
    ]
    assert (found[0].reference, found[0].amount, found[1].rate) == ("0xfeed", usd(80), "100000")
    assert [p.account for p in store.read(lambda c: reports.payments(c, PaymentFilter(rail="l402", limit=1)))] == [BOB]
    assert store.read(lambda c: reports.payments(c, PaymentFilter(state=PaymentState.UNKNOWN))) == []
    assert len(store.read(lambda c: reports.payments(c, PaymentFilter(account=ALICE)))) == 1


def test_the_payer_of_a_toll_is_found_whatever_paid(store: Store) -> None:
    claimed, plain = store.read(lambda connection: reports.tolls(connection, TollFilter(state="captured")))[:2]
    for entry in (claimed, plain):
        found = store.read(lambda connection, of=entry: reports.payer_of(connection, of.toll))  # type: ignore[misc]
        assert found is not None
        assert found[1] is Asset.USD
    assert store.read(lambda connection: reports.payer_of(connection, 1)) is None
