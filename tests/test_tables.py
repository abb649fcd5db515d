import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Capture, Fund
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.store import Store
from fastapi_tollbooth.ledger.tables import metadata

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
