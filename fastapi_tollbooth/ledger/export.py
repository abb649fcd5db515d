"""The journal as text for other programs: CSV for spreadsheets, JSON Lines for the rest."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from datetime import UTC
from decimal import Decimal

from fastapi_tollbooth.ledger.reports import Entry
from fastapi_tollbooth.money import MICRO_PER_USD, MSAT_PER_SAT, Asset

COLUMNS = ("id", "at", "account", "kind", "route", "toll", "currency", "amount", "balance")

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def as_csv(entries: Iterable[Entry]) -> Iterator[str]:
    """Lines of CSV with a heading. Text that a spreadsheet would take for a formula gets an apostrophe before it.

    Source: OWASP, CSV Injection.
    """
    yield _line(COLUMNS)
    for entry in entries:
        yield _line([_safe(value) if isinstance(value, str) else value for value in _row(entry).values()])


def as_json_lines(entries: Iterable[Entry]) -> Iterator[str]:
    """One JSON object a line; amounts are decimal text."""
    for entry in entries:
        yield json.dumps({name: str(v) if isinstance(v, Decimal) else v for name, v in _row(entry).items()}) + "\n"


def _row(entry: Entry) -> dict[str, str | int | Decimal | None]:
    unit, currency = (MICRO_PER_USD, "USD") if entry.asset is Asset.USD else (MSAT_PER_SAT, "sat")
    at = entry.at.astimezone(UTC).isoformat(timespec="milliseconds")
    amounts = (Decimal(entry.amount) / unit, Decimal(entry.balance) / unit)
    values = (entry.id, at, entry.account, entry.kind, entry.route, entry.toll, currency, *amounts)
    return dict(zip(COLUMNS, values, strict=True))


def _safe(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _line(values: Iterable[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(["" if value is None else value for value in values])
    return buffer.getvalue()
