"""``fastapi-tollbooth ledger``: the owner's operations on the books."""

import sys
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fastapi_tollbooth.ledger.audit import verify as audited
from fastapi_tollbooth.ledger.books import Books
from fastapi_tollbooth.ledger.export import as_csv, as_json_lines
from fastapi_tollbooth.ledger.operations import Corrected
from fastapi_tollbooth.ledger.records import PaymentState
from fastapi_tollbooth.ledger.reports import PaymentEntry, TollEntry, TollState, is_payer, statement
from fastapi_tollbooth.money import Money
from fastapi_tollbooth.terminal import AsJson, DatabaseUrl, keep_books, moment, print_json, require_ledger, store_at

ledger = typer.Typer(no_args_is_help=True, help="The books.")

Account = Annotated[str, typer.Argument(help="The account, such as l402:4f1c….")]
OneAccount = Annotated[str | None, typer.Option(help="Only this account.")]
GrantId = Annotated[str | None, typer.Option("--id", help="A name of yours: the same one never counts twice.")]
TollId = Annotated[int, typer.Argument(help="The toll's id.")]
Since = Annotated[
    datetime | None, typer.Option(parser=moment, metavar="TIME", help="From this day or time on, such as 2026-01-31.")
]
Until = Annotated[datetime | None, typer.Option(parser=moment, metavar="TIME", help="Before this day or time.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many.")]


class Format(StrEnum):
    """What an export is written as."""

    CSV = "csv"
    JSONL = "jsonl"


@ledger.command()
def verify(as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Replay every transfer and compare with the balances; exit with 1 at the first discrepancy."""
    with store_at(database_url) as store:
        require_ledger(store)
        audit = store.read(audited)
    if as_json:
        print_json(audit._asdict())
    else:
        counted = f"{audit.accounts} accounts, {audit.transfers} transfers, {audit.payments} payments"
        typer.echo(f"{counted}, {audit.open_tolls} open tolls: {audit.discrepancy or 'every balance is right'}")
    if audit.discrepancy is not None:
        raise typer.Exit(1)


@ledger.command()
def accounts(limit: Limit = 100, as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """List what payers hold, those that came last first."""
    found = keep_books(database_url, lambda books: books.balances(limit=limit))
    _print(found, as_json)


@ledger.command()
def balance(account: Account, as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Print what an account holds, and what of it is held for requests that are running."""
    found = keep_books(database_url, lambda books: books.balance(account))
    if as_json:
        print_json(found._asdict())
        return
    state = ", revoked" if found.revoked else ""
    typer.echo(f"{found.available} available, {found.held} held{state}")


@ledger.command("statement")
def print_statement(
    account: Account,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Print every movement of an account's money, with the balance after each."""
    entries = keep_books(database_url, lambda books: books.statement(account, since=since, until=until))
    if as_json:
        print_json([entry._asdict() for entry in entries])
        return
    for entry in entries:
        amount, after = Money(abs(entry.amount), entry.asset), Money(entry.balance, entry.asset)
        sign = "-" if entry.amount < 0 else "+"
        typer.echo(
            f"{entry.at:%Y-%m-%d %H:%M:%S}  {entry.kind:<7} {sign + str(amount):>14} {after!s:>14}  {entry.route or ''}"
        )
    typer.echo(f"{len(entries)} movements")


@ledger.command()
def tolls(
    account: OneAccount = None,
    route: Annotated[str | None, typer.Option(help="Only this route template.")] = None,
    state: Annotated[TollState | None, typer.Option(help="Only those that ended so.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 100,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List tolls, newest first."""

    async def _find(books: Books) -> list[TollEntry]:
        await _require_account(books, account)
        return await books.tolls(account=account, route=route, state=state, since=since, until=until, limit=limit)

    _print(keep_books(database_url, _find), as_json)


@ledger.command()
def payments(
    account: OneAccount = None,
    rail: Annotated[str | None, typer.Option(help="Only this rail, such as l402.")] = None,
    state: Annotated[PaymentState | None, typer.Option(help="Only those that have come so far.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 100,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List external payments, newest first."""

    async def _find(books: Books) -> list[PaymentEntry]:
        await _require_account(books, account)
        return await books.payments(account=account, rail=rail, state=state, since=since, until=until, limit=limit)

    _print(keep_books(database_url, _find), as_json)


@ledger.command()
def free(as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """List what was served without payment, by day: free tiers, free routes, what shadow mode would have charged."""
    _print(keep_books(database_url, lambda books: books.free_use()), as_json)


@ledger.command()
def grant(
    account: Account,
    amount: Annotated[str, typer.Argument(help='How much, such as "$5" or "100 sat".')],
    grant_id: GrantId = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Give an account credit."""
    granted = keep_books(database_url, lambda books: books.grant(account, amount, grant_id=grant_id))
    _say(
        {"account": account, "balance": granted.balance, "new": granted.new},
        f"{account} has {granted.balance}" + _before(granted.new, "granted"),
        as_json,
    )


@ledger.command()
def refund(
    toll: TollId,
    amount: Annotated[str | None, typer.Argument(help="How much of it; all where left out.")] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Give back what a toll cost, once."""
    _say_corrected(toll, keep_books(database_url, lambda books: books.refund(toll, amount)), "refunded", as_json)


@ledger.command()
def reconcile(
    toll: TollId,
    actual: Annotated[str, typer.Argument(help="What it really cost.")],
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Correct a toll to what it really cost, once."""
    _say_corrected(toll, keep_books(database_url, lambda books: books.reconcile(toll, actual)), "reconciled", as_json)


@ledger.command()
def revoke(
    account: Account,
    undo: Annotated[bool, typer.Option("--undo", help="Open it again.")] = False,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Close an account to new requests. What it holds stays."""
    keep_books(database_url, lambda books: books.revoke(account, revoked=not undo))
    is_now = "open" if undo else "revoked"
    _say({"account": account, "revoked": not undo}, f"{account} is {is_now}", as_json)


@ledger.command()
def export(
    to: Annotated[Path | None, typer.Option(help="A file; the terminal where left out.")] = None,
    format_: Annotated[Format, typer.Option("--format", help="csv or jsonl.")] = Format.CSV,
    account: OneAccount = None,
    since: Since = None,
    until: Until = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Write every movement of payers' money, with the balance after each, for other programs."""
    written = as_csv if format_ is Format.CSV else as_json_lines
    with store_at(database_url) as store:
        require_ledger(store)
        if account is not None and not store.read(lambda connection: is_payer(connection, account)):
            raise typer.BadParameter("there is no such account")
        store.read(lambda connection: _write(to, written(statement(connection, account, since, until))))


@ledger.command()
def archive(
    before: Annotated[
        datetime, typer.Argument(parser=moment, help="What began before this day or time, such as 2026-01-31.")
    ],
    to: Annotated[Path, typer.Option(help="The file that gets the transfers, as JSON Lines.")],
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Move old transfers out of the database into a file. Balances and spend keys stay."""
    moved = keep_books(database_url, lambda books: books.archive(before, to))
    none = "" if moved else ": what was not resolved an hour ago stays"
    _say({"archived": moved, "file": str(to)}, f"{moved} transfers archived in {to}{none}", as_json)


def _write(to: Path | None, lines: Iterable[str]) -> None:
    if to is None:
        sys.stdout.writelines(lines)
        return
    with to.open("w", encoding="utf-8", newline="") as file:
        file.writelines(lines)


async def _require_account(books: Books, account: str | None) -> None:
    if account is not None:
        await books.balance(account)


def _say(fields: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        print_json(fields)
    else:
        typer.echo(text)


def _say_corrected(toll: int, done: Corrected, what: str, as_json: bool) -> None:
    fields = {"toll": toll, "cost": done.earned, "balance": done.balance, "new": done.new}
    _say(fields, f"toll {toll} costs {done.earned} now" + _before(done.new, what), as_json)


def _before(new: bool, what: str) -> str:
    return "" if new else f": it was {what} before, and nothing has changed"


def _print(found: Iterable[Any], as_json: bool) -> None:
    rows = [row._asdict() for row in found]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        texts = [f"{v:%Y-%m-%d %H:%M:%S}" if isinstance(v, datetime) else str(v) for v in row.values() if v is not None]
        typer.echo("  ".join(texts))
    typer.echo(f"{len(rows)} found")
