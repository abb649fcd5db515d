"""Questions to the ledger that the rules need not answer."""

from sqlalchemy import Connection, select

from fastapi_tollbooth.ledger.tables import metadata

_account = metadata.tables["tollbooth_account"]
_payment = metadata.tables["tollbooth_payment"]


def payer_named(connection: Connection, name: str) -> str | None:
    """The key of the payer's account of that key, or of the one that a payment of that spend key went into."""
    named = select(_account.c.key).where(_account.c.key == name, _account.c.kind == "payer")
    paid = (
        select(_account.c.key)
        .join(_payment, _payment.c.account_id == _account.c.id)
        .where(_payment.c.spend_key == name, _account.c.kind == "payer")
    )
    return connection.execute(named).scalar() or connection.execute(paid).scalar()


def is_paid(connection: Connection, spend_key: str) -> bool:
    """Whether the ledger has a payment of that spend key."""
    return connection.execute(select(_payment.c.spend_key).where(_payment.c.spend_key == spend_key)).first() is not None
