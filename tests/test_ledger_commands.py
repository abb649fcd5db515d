import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.cli import main
from fastapi_tollbooth.ledger.free_use import Use, add
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Capture, Fund
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.store import Store

ALICE = "l402:aa"


@pytest.fixture
def toll(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    """A ledger in which one toll of ten cents was captured and one is open, named by the environment."""
    monkeypatch.setenv("TOLLBOOTH_DATABASE_URL", url)
    monkeypatch.chdir(tmp_path)
    store = Store(url)
    dollar = Money.parse("$1")
    store.transact([[Fund(ALICE, dollar, Payment("l402", "p1", 1_000, Asset.BTC, ALICE))]])
    [[charged], _] = store.transact(
        [[Authorize(ALICE, Money.parse("$0.10"), "=cmd")], [Authorize(ALICE, dollar, "/b")]]
    )
    [[_]] = store.transact([[Authorize(ALICE, Money.parse("$0.20"), "/b")]])
    assert isinstance(charged, Authorized)
    store.transact([[Capture(charged.account_id, charged.toll)]])
    store.close()
    return charged.toll


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["ledger", *arguments])
    return result.exit_code, result.stdout if result.exit_code == 0 else result.output


def read(*arguments: str) -> object:
    code, output = call(*arguments, "--json")
    assert code == 0, output
    return json.loads(output)


def test_what_an_account_holds(toll: int) -> None:
    assert call("balance", ALICE) == (0, "$0.70 available, $0.20 held\n")
    assert read("balance", ALICE) == {
        "account": ALICE, "available": "$0.70", "held": "$0.20", "revoked": False, "expires_at": None,
    }  # fmt: skip
    code, output = call("balance", "nobody")
    assert code == 2
    assert "no such account" in output
    assert [row["account"] for row in read("accounts")] == [ALICE]  # type: ignore[attr-defined]


def test_what_was_free(toll: int, url: str) -> None:
    store = Store(url)
    store.execute(lambda connection: add(connection, [Use("2026-11-20", "observed usd /b", who, 300) for who in "ab"]))
    store.close()
    assert call("free") == (0, "2026-11-20  observed usd /b  2  600\n1 found\n")
    assert read("free") == [{"day": "2026-11-20", "bucket": "observed usd /b", "clients": 2, "used": 600}]


def test_a_statement(toll: int) -> None:
    code, output = call("statement", ALICE)
    assert code == 0
    assert "charge          -$0.10          $0.90" in output
    assert output.endswith("2 movements\n")
    entries = read("statement", ALICE, "--since", "2020-01-01")
    assert [(entry["kind"], entry["amount"], entry["toll"]) for entry in entries] == [  # type: ignore[attr-defined]
        ("fund", 1_000_000, None),
        ("charge", -100_000, toll),
    ]


def test_tolls_and_payments(toll: int) -> None:
    assert [row["toll"] for row in read("tolls", "--state", "captured")] == [toll]  # type: ignore[attr-defined]
    assert "1 found" in call("tolls", "--route", "/b")[1]
    assert [row["spend_key"] for row in read("payments", "--rail", "l402")] == ["p1"]  # type: ignore[attr-defined]
    assert "0 found" in call("payments", "--state", "unknown")[1]


def test_grant_refund_reconcile_revoke(toll: int) -> None:
    assert call("grant", ALICE, "$5", "--id", "gift") == (0, f"{ALICE} has $5.70\n")
    again = "it was granted before, and nothing has changed"
    assert call("grant", ALICE, "$6", "--id", "gift") == (0, f"{ALICE} has $5.70: {again}\n")
    assert call("balance", ALICE)[1].startswith("$5.70")
    assert call("reconcile", str(toll), "$0.04") == (0, f"toll {toll} costs $0.04 now\n")
    assert call("refund", str(toll)) == (0, f"toll {toll} costs $0.00 now\n")
    again = "it was refunded before, and nothing has changed"
    assert call("refund", str(toll), "$0.01") == (0, f"toll {toll} costs $0.00 now: {again}\n")
    assert call("revoke", ALICE) == (0, f"{ALICE} is revoked\n")
    assert "revoked" in call("balance", ALICE)[1]
    assert call("revoke", ALICE, "--undo") == (0, f"{ALICE} is open\n")
    code, output = call("verify")
    assert code == 0, output
    assert "1 open tolls: every balance is right" in output


def test_what_changes_the_books_says_so_to_programs_too(toll: int, tmp_path: Path) -> None:
    assert read("grant", ALICE, "$5", "--id", "gift") == {"account": ALICE, "balance": "$5.70", "new": True}
    assert read("grant", ALICE, "$5", "--id", "gift") == {"account": ALICE, "balance": "$5.70", "new": False}
    cost = {"toll": toll, "cost": "$0.04", "balance": "$5.76"}
    assert read("reconcile", str(toll), "$0.04") == {**cost, "new": True}
    assert read("reconcile", str(toll), "$0.05") == {**cost, "new": False}
    assert read("refund", str(toll), "$0.01") == {"toll": toll, "cost": "$0.03", "balance": "$5.77", "new": True}
    assert read("revoke", ALICE) == {"account": ALICE, "revoked": True}
    file = str(tmp_path / "old.jsonl")
    assert read("archive", "2026-01-31", "--to", file) == {"archived": 0, "file": file}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("grant", "revenue:USD", "$1"), "no such account"),
        (("grant", ALICE, "$0"), "zero changes nothing"),
        (("tolls", "--account", "l402:ab"), "no such account"),
        (("payments", "--account", "l402:ab"), "no such account"),
        (("export", "--account", "l402:ab"), "no such account"),
        (("export", "--to", "/nowhere/books.csv"), "/nowhere/books.csv: No such file"),
        (("archive", "2026-01-31", "--to", "/nowhere/old.jsonl"), "/nowhere/old.jsonl: No such file"),
        (("refund", "999999"), "no such toll"),
        (("grant", ALICE, "5 dollars"), "not an amount"),
        (("grant", ALICE, "5 sat"), "another asset"),
        (("statement", ALICE, "--since", "monday"), "not a day such as"),
    ],
)
def test_what_is_refused_is_said_in_words(toll: int, arguments: tuple[str, ...], why: str) -> None:
    code, output = call(*arguments)
    assert code == 2
    assert why in " ".join(output.split())
    assert "Traceback" not in output


def test_an_export_is_safe_to_open_in_a_spreadsheet(toll: int, tmp_path: Path) -> None:
    code, output = call("export")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(output)))
    assert [(row["kind"], row["amount"], row["balance"], row["route"]) for row in rows] == [
        ("fund", "1", "1", ""),
        ("charge", "-0.1", "0.9", "'=cmd"),
    ]
    assert call("export", "--format", "jsonl", "--account", ALICE, "--to", str(tmp_path / "out.jsonl"))[0] == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
