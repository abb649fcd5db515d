"""What the commands of ``fastapi-tollbooth`` share: their options, the database they work on, and how they print."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Annotated, Any, TypeVar

import typer
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError

from fastapi_tollbooth.errors import ConfigurationError, LedgerRefused, Refusal
from fastapi_tollbooth.ledger.books import Books
from fastapi_tollbooth.ledger.reports import aware
from fastapi_tollbooth.ledger.store import Store
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.variables import read_settings

T = TypeVar("T")

_TELLING = (OperationalError, ProgrammingError)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DatabaseUrl = Annotated[str | None, typer.Option(help="Instead of TOLLBOOTH_DATABASE_URL.")]


@contextmanager
def told() -> Iterator[None]:
    """What is refused inside becomes a message and exit code 2."""
    try:
        yield
    except LedgerRefused as error:
        raise typer.BadParameter(str(error)) from error
    except ConfigurationError as error:
        # Plain text, and not a box: commands and addresses in it are there to be copied.
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    except Refusal as error:
        raise typer.BadParameter(error.detail) from error
    except SQLAlchemyError as error:
        raise typer.BadParameter(f"the database does not answer: {_cause(error)}") from error
    except OSError as error:
        raise typer.BadParameter(f"{error.filename or 'the file'}: {error.strerror or type(error).__name__}") from error


@contextmanager
def store_at(database_url: str | None) -> Iterator[Store]:
    """The ledger's database, for commands that work on it directly."""
    with told(), closing(Store(database_url or read_settings().database_url)) as store:
        yield store


def _cause(error: SQLAlchemyError) -> str:
    # Of a server that is not there, or does not let the tables be made, a driver says why; of rows it might show some.
    original = getattr(error, "orig", None)
    is_of_driver = type(original).__module__.partition(".")[0] in ("psycopg", "sqlite3")
    told = str(original).strip().splitlines() if is_of_driver and isinstance(error, _TELLING) else []
    return ": ".join([type(error).__name__, *told[:1]])


def require_ledger(store: Store) -> None:
    """Stop before an empty ledger is made where there is none."""
    if store.path is not None and not store.path.exists():
        raise typer.BadParameter("there is no ledger there yet")


def keep_books(database_url: str | None, work: Callable[[Books], Awaitable[T]]) -> T:
    """Have an owner's operation done."""
    with store_at(database_url) as store:
        require_ledger(store)
        store.revision()  # a database that does not answer says why

    async def _run() -> T:
        ledger = Ledger(database_url or read_settings().database_url)
        try:
            await ledger.check()
            return await work(Books(ledger))
        finally:
            await ledger.close()

    with told():
        return asyncio.run(_run())


def print_json(value: Any) -> None:
    """Print for programs: money and times as text."""
    typer.echo(json.dumps(value, indent=2, default=_text))


def moment(text: str) -> datetime:
    """A day or a time that the owner typed; in UTC where it says nothing else."""
    try:
        return aware(datetime.fromisoformat(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a day such as 2026-01-31, or a time in ISO 8601") from error


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
