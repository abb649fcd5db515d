import base64
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth import Money
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.money import Rate
from fastapi_tollbooth.rails.invoice_token import InvoiceClaim, read_invoice_token, write_invoice_token
from fastapi_tollbooth.rails.macaroon import Identifier

RING = KeyRing((b"n" * 32, b"o" * 32))
SOON = datetime(2030, 1, 1, tzinfo=UTC)


def claim(ring: KeyRing = RING, account: str = "l402:abc") -> InvoiceClaim:
    identifier = Identifier.new(bytes(range(32)), Money.parse("$0.10"), Rate.parse("97123.5"), ring.newest, sats=104)
    return InvoiceClaim(identifier, account, SOON)


def test_a_token_says_what_was_written() -> None:
    written = claim()
    token = write_invoice_token(RING, written)
    assert read_invoice_token(RING, token) == written
    assert token.replace("-", "").replace("_", "").isalnum()


def test_a_token_of_an_older_key_is_read_and_one_of_a_lost_key_is_not() -> None:
    old = KeyRing((b"o" * 32,))
    assert read_invoice_token(RING, write_invoice_token(old, claim(old))) is not None
    assert read_invoice_token(old, write_invoice_token(RING, claim())) is None


def test_every_changed_byte_is_noticed() -> None:
    raw = base64.urlsafe_b64decode(write_invoice_token(RING, claim()) + "==")
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1
        assert read_invoice_token(RING, base64.urlsafe_b64encode(bytes(changed)).decode()) is None


@given(st.text() | st.binary(max_size=200).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_anything_else_is_no_token(text: str) -> None:
    assert read_invoice_token(RING, text) is None


def test_monsters_are_not_read() -> None:
    assert read_invoice_token(RING, "A" * 100_000) is None
