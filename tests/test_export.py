import csv
import io
import json
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth import Asset
from fastapi_tollbooth.ledger.export import COLUMNS, as_csv, as_json_lines
from fastapi_tollbooth.ledger.reports import Entry

AT = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)
SPENT = Entry(7, AT, "l402:aa", "charge", "/weather", 6, Asset.USD, -12_300, 987_700)
GOT = Entry(8, AT, "l402:bb", "fund", None, None, Asset.BTC, 21_500, 21_500)


def test_a_spreadsheet_gets_decimal_amounts() -> None:
    rows = list(csv.DictReader(io.StringIO("".join(as_csv([SPENT, GOT])))))
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["amount"], rows[0]["balance"], rows[0]["currency"]) == ("-0.0123", "0.9877", "USD")
    assert (rows[1]["amount"], rows[1]["currency"], rows[1]["toll"]) == ("21.5", "sat", "")
    assert rows[0]["at"] == "2026-01-31T12:30:00.000+00:00"


def test_a_program_gets_json() -> None:
    first, second = map(json.loads, as_json_lines([SPENT, GOT]))
    assert (first["account"], first["amount"], first["toll"]) == ("l402:aa", "-0.0123", 6)
    assert second["route"] is None


@given(st.sampled_from("=+-@\t\r\n") | st.just(""), st.text(max_size=20))
def test_no_text_is_a_formula(start: str, rest: str) -> None:
    [_, line] = as_csv([SPENT._replace(account=start + rest)])
    cell = next(csv.reader(io.StringIO(line, newline="")))[2]
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert cell.removeprefix("'") == (start + rest).removeprefix("'")
