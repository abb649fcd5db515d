"""What operations are about: the rows that a batch has to lock and load before its rules are applied. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from fastapi_tollbooth.ledger.operations import (
    Authorize,
    BeginSettlement,
    Capture,
    Claim,
    CompleteSettlement,
    EndClaim,
    Fund,
    Operation,
    Reconcile,
    Refund,
    Revoke,
    Void,
)
from fastapi_tollbooth.ledger.records import source_key


@dataclass(slots=True)
class Names:
    """What operations are about: account ids and keys, tolls, the spend keys of payments, and the keys of caps.

    Of ``tolls`` only the journal says what became of them. Those in ``resolving`` may be taken for open by who promised
    them: if they are not, no second resolution can be written.
    """

    ids: set[int] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    tolls: set[int] = field(default_factory=set)
    resolving: set[int] = field(default_factory=set)
    spend_keys: set[str] = field(default_factory=set)
    caps: set[str] = field(default_factory=set)


def names_of(operations: Iterable[Operation]) -> Names:
    """What these operations are about, besides the revenue accounts that every batch needs."""
    names = Names()
    for operation in operations:
        _NAMING[type(operation)](names, operation)
    return names


def _authorize(names: Names, operation: Authorize) -> None:
    account = operation.account
    if isinstance(account, int):
        names.ids.add(account)
    else:
        names.keys.add(account)
    if operation.caps:
        names.caps.update(cap.key for cap in operation.caps)


def _resolution(names: Names, operation: Capture | Void) -> None:
    names.ids.add(operation.account)
    names.resolving.add(operation.toll)


def _correction(names: Names, operation: Refund | Reconcile) -> None:
    names.ids.add(operation.account)
    names.tolls.add(operation.toll)


def _account(names: Names, operation: Revoke) -> None:
    names.keys.add(operation.account)


def _fund(names: Names, operation: Fund) -> None:
    names.keys.update((operation.account, source_key(operation.payment.rail, operation.credit.asset)))
    names.spend_keys.add(operation.payment.spend_key)


def _claim(names: Names, operation: Claim) -> None:
    names.keys.update((operation.account, source_key(operation.payment.rail, operation.payment.asset)))
    names.spend_keys.add(operation.payment.spend_key)


def _payment(names: Names, operation: BeginSettlement | CompleteSettlement | EndClaim) -> None:
    names.spend_keys.add(operation.spend_key)


_NAMING: dict[type[Operation], Callable[[Names, Any], None]] = {
    Authorize: _authorize,
    Capture: _resolution,
    Void: _resolution,
    Refund: _correction,
    Reconcile: _correction,
    Revoke: _account,
    Fund: _fund,
    Claim: _claim,
    BeginSettlement: _payment,
    CompleteSettlement: _payment,
    EndClaim: _payment,
}
