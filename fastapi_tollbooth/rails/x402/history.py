"""What the ledger remembers of x402 payments, read by name or by age."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, func, or_, select, text

from fastapi_tollbooth.ledger.records import PaymentState
from fastapi_tollbooth.ledger.tables import metadata
from fastapi_tollbooth.money import Asset, Money
from fastapi_tollbooth.rails.x402.accepted import Accepted
from fastapi_tollbooth.rails.x402.amounts import atomic_amount
from fastapi_tollbooth.rails.x402.chain import Transferred

LIMIT = 500
NOT_MADE = (PaymentState.RELEASED, PaymentState.FAILED, PaymentState.CLAIMED)

_payment = metadata.tables["tollbooth_payment"]

# In the words of the partial index that has these few payments: else all there ever were are looked at.
_IS_UNSETTLED = text("state IN ('claimed', 'settling', 'unknown')")


class Known(NamedTuple):
    """A payment as the ledger holds it.

    ``toll`` is its claim, ``reference`` its transaction, ``digest`` that of the header that it was taken with.
    """

    state: PaymentState
    toll: int | None
    amount: Money
    reference: str | None
    expires_at: datetime | None
    updated_at: datetime
    digest: str | None

    def is_altered(self, digest: str) -> bool:
        """Whether what comes with this digest is another header than that which the payment was taken with."""
        return self.digest not in (None, digest)


_columns = (
    _payment.c.state,
    _payment.c.toll_id,
    _payment.c.amount,
    _payment.c.asset,
    _payment.c.reference,
    _payment.c.expires_at,
    _payment.c.updated_at,
    _payment.c.digest,
)


def reader(spend_key: str) -> Callable[[Connection], Known | None]:
    """A query for one payment."""

    def read(connection: Connection) -> Known | None:
        row = connection.execute(select(*_columns).where(_payment.c.spend_key == spend_key)).first()
        return None if row is None else _known(row)

    return read


def abandoned(claims: timedelta, settling: timedelta) -> Callable[[Connection], list[tuple[str, Known]]]:
    """A query for payments that nobody works on: claims and settlements older than this, and all that is unknown."""
    now = datetime.now(UTC)

    def read(connection: Connection) -> list[tuple[str, Known]]:
        old_claim = and_(_payment.c.state == PaymentState.CLAIMED, _payment.c.updated_at < now - claims)
        old_settling = and_(_payment.c.state == PaymentState.SETTLING, _payment.c.updated_at < now - settling)
        query = (
            select(_payment.c.spend_key, *_columns)
            .where(_payment.c.rail == "x402", _IS_UNSETTLED, _payment.c.updated_at <= now)
            .where(or_(old_claim, old_settling, _payment.c.state == PaymentState.UNKNOWN))
            # Any of them: those that stay unknown must not stand before the others for ever.
            .order_by(func.random())
            .limit(LIMIT)
        )
        return [(str(row[0]), _known(row[1:])) for row in connection.execute(query)]

    return read


def wanted(spend_key: str, known: Known, accepted: Mapping[str, Accepted]) -> tuple[Accepted, Transferred] | None:
    """What to look for on which chain; None when that chain is not asked, or has no record by nonce."""
    _, family, chain, token, payer, nonce = spend_key.split(":", 5)
    place = accepted.get(f"{family}:{chain}")
    if place is None or not place.network.is_evm or place.network.token.address.lower() != token:
        return None
    amount = atomic_amount(known.amount, place.network.token.decimals, None)
    return place, Transferred(token, payer, nonce, place.pay_to, amount)


def _known(row: Sequence[Any]) -> Known:
    state, toll, amount, asset, *others = row
    return Known(PaymentState(state), toll, Money(amount, Asset(asset)), *others)
