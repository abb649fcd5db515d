from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger.lookups import is_paid, payer_named
from fastapi_tollbooth.ledger.operations import Fund
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.store import Store


def test_an_account_is_found_by_its_key_and_by_what_was_paid_into_it(url: str) -> None:
    store, dollar = Store(url), Money(1_000_000, Asset.USD)
    for spend_key in ("l402:first", "l402:second"):
        store.transact([[Fund("l402:first", dollar, Payment("l402", spend_key, 1, Asset.BTC, "l402:first"))]])
    names = ("l402:first", "l402:second", "l402:third", "revenue:USD", "source:l402:USD")
    found = store.read(lambda connection: [payer_named(connection, name) for name in names])
    assert found == ["l402:first", "l402:first", None, None, None]
    paid = store.read(lambda connection: [is_paid(connection, name) for name in names])
    assert paid == [True, True, False, False, False]
    store.close()
