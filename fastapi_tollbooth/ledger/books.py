"""What an owner does with the ledger: `tollbooth.books`, and ``fastapi-tollbooth ledger`` on the command line."""

import os
import secrets
from datetime import datetime
from functools import partial
from pathlib import Path

from fastapi_tollbooth.errors import LedgerRefused
from fastapi_tollbooth.ledger import reports
from fastapi_tollbooth.ledger.archive import archive_some
from fastapi_tollbooth.ledger.free_use import DailyUse, daily
from fastapi_tollbooth.ledger.operations import (
    Corrected,
    Fund,
    Funded,
    Operation,
    Outcome,
    Reason,
    Reconcile,
    Refund,
    Refused,
    Revoke,
)
from fastapi_tollbooth.ledger.records import GRANT, Payment, PaymentState
from fastapi_tollbooth.ledger.reports import (
    Balance,
    Entry,
    PaymentEntry,
    PaymentFilter,
    TollEntry,
    TollFilter,
    TollState,
    aware,
)
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.money import Asset, Money, money_of

_WHY = {
    Reason.UNKNOWN_ACCOUNT: "there is no such account",
    Reason.UNKNOWN_TOLL: "there is no such toll",
    Reason.TOLL_OPEN: "the toll is still open: its request is running, or the sweeper will void it",
    Reason.NOT_CHARGED: "the toll was voided: nothing was charged for it",
    Reason.INSUFFICIENT: "it is more than the toll has earned",
    Reason.WRONG_ASSET: "the account is kept in another asset",
    Reason.TOO_LARGE: "the amount is out of range",
}


class Books:
    """The books of a service, as its owner reads and corrects them.

    Every method raises `LedgerRefused` when the ledger does not do it, and `Unavailable` when the database does not
    answer; nothing has happened then. What may be asked again says in ``new`` whether it was done now or before. Where
    a method takes ``since`` and ``until``, it is about what happened from the one on and before the other. Moments
    without a time zone are in UTC.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def balance(self, account: str) -> Balance:
        """What an account holds now."""
        found = await self._ledger.read(partial(reports.balance, account=account))
        if found is None:
            raise _refused(Refused(Reason.UNKNOWN_ACCOUNT))
        return found

    async def balances(self, *, limit: int = 100) -> list[Balance]:
        """The accounts of payers, those that were opened last first."""
        return await self._ledger.read(partial(reports.balances, limit=limit))

    async def statement(
        self, account: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> list[Entry]:
        """Every movement of a payer's money, oldest first, with the balance after each."""
        if not await self._ledger.read(partial(reports.is_payer, account=account)):
            raise _refused(Refused(Reason.UNKNOWN_ACCOUNT))
        return await self._ledger.read(lambda connection: list(reports.statement(connection, account, since, until)))

    async def tolls(
        self,
        *,
        account: str | None = None,
        route: str | None = None,
        state: TollState | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> list[TollEntry]:
        """Tolls, newest first."""
        which = TollFilter(account, route, state, since, until, limit)
        return await self._ledger.read(partial(reports.tolls, which=which))

    async def payments(
        self,
        *,
        account: str | None = None,
        rail: str | None = None,
        state: PaymentState | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> list[PaymentEntry]:
        """External payments, newest first."""
        which = PaymentFilter(account, rail, state, since, until, limit)
        return await self._ledger.read(partial(reports.payments, which=which))

    async def free_use(self) -> list[DailyUse]:
        """What was served without payment on each of the last days: free tiers, free routes, and shadow mode."""
        return await self._ledger.read(daily)

    async def grant(self, account: str, amount: str | Money, *, grant_id: str | None = None) -> Funded:
        """Give credit to an account.

        Args:
            account: The account, which must exist: accounts are opened by payments.
            amount: How much, in the account's asset.
            grant_id: A name of yours for this grant: the same one never counts twice.
        """
        credit = _some(money_of(amount))
        await self.balance(account)
        spend_key = f"{GRANT}:{grant_id or secrets.token_hex(8)}"
        outcome = await self._apply(
            Fund(account, credit, Payment(GRANT, spend_key, credit.amount, credit.asset, account))
        )
        if not isinstance(outcome, Funded):
            raise _refused(outcome)
        return outcome

    async def refund(self, toll: int | str, amount: str | Money | None = None) -> Corrected:
        """Give back what an earned toll cost, or part of it. Once per toll, however often asked."""
        account_id, asset = await self._payer_of(toll)
        part = None if amount is None else _in(asset, _some(money_of(amount)))
        return _corrected(await self._apply(Refund(account_id, int(toll), part)))

    async def reconcile(self, toll: int | str, actual: str | Money) -> Corrected:
        """Correct an earned toll to what it really cost. Once per toll, however often asked.

        Args:
            toll: The toll's id.
            actual: What it cost, in the asset of the payer's credit. Not more than was held is charged, nor more than
                the payer has, nor what a refund gave back.
        """
        account_id, asset = await self._payer_of(toll)
        return _corrected(await self._apply(Reconcile(account_id, int(toll), _in(asset, money_of(actual)))))

    async def revoke(self, account: str, *, revoked: bool = True) -> None:
        """Close an account to new tolls, or open it again. What it holds stays where it is."""
        outcome = await self._apply(Revoke(account, revoked))
        if isinstance(outcome, Refused):
            raise _refused(outcome)

    async def archive(self, before: datetime, file: Path) -> int:
        """Move the transfers of tolls and payments from before a moment out of the database; how many.

        Checkpoints keep what they added up to, and spend keys stay, so balances, proofs and refusals are as before. The
        tolls can no longer be refunded or reconciled.

        Args:
            before: What began earlier is archived, if it is resolved. The last hour always stays.
            file: Gets one JSON object a line, after what it holds already. A line that is there twice, by its id, is
                from a run that was broken off.
        """
        moved = 0
        with file.open("a", encoding="utf-8") as lines:

            def _keep(text: str) -> None:
                lines.write(text)
                lines.flush()
                os.fsync(lines.fileno())

            while chunk := await self._ledger.execute(partial(archive_some, before=aware(before), keep=_keep)):
                moved += chunk
        return moved

    async def _apply(self, operation: Operation) -> Outcome:
        return (await self._ledger.apply(operation))[0]

    async def _payer_of(self, toll: int | str) -> tuple[int, Asset]:
        number = int(toll) if str(toll).isdecimal() else 0
        found = await self._ledger.read(partial(reports.payer_of, toll=number))
        if found is None:
            raise _refused(Refused(Reason.UNKNOWN_TOLL))
        return found


def _some(money: Money) -> Money:
    if money.is_zero:
        raise LedgerRefused("not_possible", "an amount of zero changes nothing")
    return money


def _in(asset: Asset, money: Money) -> int:
    if money.asset is not asset:
        raise _refused(Refused(Reason.WRONG_ASSET))
    return money.amount


def _corrected(outcome: Outcome) -> Corrected:
    if not isinstance(outcome, Corrected):
        raise _refused(outcome)
    return outcome


def _refused(outcome: Outcome) -> LedgerRefused:
    reason = outcome.reason if isinstance(outcome, Refused) else Reason.NOT_POSSIBLE
    return LedgerRefused(reason.value, _WHY.get(reason, "the ledger does not do that"))
