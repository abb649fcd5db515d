"""What is particular to LNbits; the rest is in `test_nodes`, and against the real one in `peers/test_lnbits_peer`."""

from typing import Any

import pytest

from fastapi_tollbooth import ConfigurationError
from fastapi_tollbooth.lightning import InvoiceState, LightningUnavailable
from fastapi_tollbooth.lightning.lnbits import LnbitsNode, _status
from fastapi_tollbooth.lightning.rest import reading
from fastapi_tollbooth.settings import LightningSettings


def test_it_needs_the_invoice_key() -> None:
    with pytest.raises(ConfigurationError, match="invoice key"):
        LnbitsNode(LightningSettings())


def answered(paid: bool, **details: Any) -> Any:
    return {"paid": paid, "status": "pending", "preimage": None, "details": {"amount": 21_000} | details}


def test_a_preimage_in_the_answer_settles_nothing() -> None:
    leaking = answered(False, preimage="5" * 64) | {"preimage": "5" * 64}
    assert _status(leaking).state is InvoiceState.PENDING


@pytest.mark.parametrize("document", [{"paid": True, "preimage": "5" * 64}, {"paid": False}, answered(True, amount=-1)])
def test_an_answer_about_another_wallet_s_payment_is_none(document: Any) -> None:
    with pytest.raises(LightningUnavailable), reading("LNbits"):
        _status(document)


@pytest.mark.parametrize(
    ("updated_at", "expected"),
    [
        ("2026-11-20T21:00:00.123456+00:00", "2026-11-20T21:00:00.123456+00:00"),
        ("2026-11-20T21:00:00", "2026-11-20T21:00:00+00:00"),
        (1_700_000_000, "2023-11-14T22:13:20+00:00"),
    ],
)
def test_times_of_all_versions_are_read(updated_at: object, expected: str) -> None:
    settled = _status(answered(True, updated_at=updated_at)).settled_at
    assert settled is not None
    assert settled.isoformat() == expected


def test_failed_is_failed_unless_it_only_expired() -> None:
    assert _status(answered(False) | {"status": "failed"}).state is InvoiceState.FAILED
    late = answered(False, expiry="2020-01-01T00:00:00") | {"status": "failed"}
    assert _status(late).state is InvoiceState.EXPIRED
