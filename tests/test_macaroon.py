import base64
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymacaroons import MACAROON_V1, MACAROON_V2, Macaroon
from pymacaroons.serializers import BinarySerializer

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.errors import CredentialRefused
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.money import MAX_AMOUNT, Rate
from fastapi_tollbooth.rails.macaroon import (
    MAX_BYTES,
    MAX_CAVEATS,
    Identifier,
    Kind,
    decode_base64,
    mint,
    narrow,
    open_token,
    peek_payment_hash,
)

RING = KeyRing((b"n" * 32, b"o" * 32))
HASH = bytes(range(32))
CAVEATS = ["services=svc:0", "svc_valid_until=1900000000"]


def identifier(ring: KeyRing = RING) -> Identifier:
    return Identifier.new(HASH, Money.parse("$0.10"), Rate.parse("97123.5"), ring.newest)


def token(ring: KeyRing = RING, caveats: list[str] = CAVEATS) -> bytes:
    return base64.b64decode(mint(ring, identifier(ring), "svc", caveats))


def appended(raw: bytes, *caveats: str) -> bytes:
    """What any holder can do."""
    macaroon = BinarySerializer().deserialize_raw(raw)
    for caveat in caveats:
        macaroon.add_first_party_caveat(caveat)
    return bytes(BinarySerializer().serialize_raw(macaroon))


def reason(raw: bytes, ring: KeyRing = RING) -> str:
    with pytest.raises(CredentialRefused) as refused:
        open_token(ring, raw)
    return refused.value.reason


@given(
    st.binary(min_size=32, max_size=32),
    st.builds(Money, st.integers(0, MAX_AMOUNT), st.sampled_from(Asset)),
    st.none() | st.builds(Rate, st.integers(1, MAX_AMOUNT)),
)
def test_identifiers_are_66_bytes_and_come_back(payment_hash: bytes, credit: Money, rate: Rate | None) -> None:
    made = Identifier.new(payment_hash, credit, rate, RING.newest)
    packed = made.pack()
    assert len(packed) == 66
    assert packed[:2] == b"\x00\x00"
    assert packed[2:34] == payment_hash
    assert Identifier.unpack(packed) == made


@pytest.mark.parametrize(
    "raw", [b"", b"\x00" * 65, b"\x00\x01" + bytes(64), b"\x00\x00" + bytes(64), bytes(34) + b"\x01\x09" + bytes(30)]
)
def test_other_identifiers_are_not_read(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"identifier|version"):
        Identifier.unpack(raw)


def test_what_is_minted_opens() -> None:
    opened = open_token(RING, token())
    assert opened.identifier.payment_hash == HASH
    assert opened.identifier.credit == Money.parse("$0.10")
    assert opened.caveats == (("services", "svc:0"), ("svc_valid_until", "1900000000"))
    assert peek_payment_hash(token()) == HASH


def test_tokens_are_standard_padded_base64_in_the_v2_format() -> None:
    text = mint(RING, identifier(), "svc", [*CAVEATS, "x=1"])
    assert base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
    assert base64.b64decode(text)[0] == 2


def test_old_keys_open_and_lost_keys_do_not() -> None:
    old = KeyRing((b"o" * 32,))
    assert open_token(RING, token(old)).identifier.key == old.newest
    assert reason(token(), old) == "invalid_signature"


def test_holders_may_append_caveats_and_nothing_else() -> None:
    narrowed = open_token(RING, appended(token(), "svc_valid_until=1", "anything = at all"))
    assert narrowed.caveats[2:] == (("svc_valid_until", "1"), ("anything", "at all"))


def test_every_changed_byte_is_noticed() -> None:
    raw = token()
    location = range(3, 6)  # the one part that macaroons do not authenticate
    for position in range(len(raw)):
        if position in location:
            continue
        changed = bytearray(raw)
        changed[position] ^= 1
        assert reason(bytes(changed)) in ("malformed_credential", "invalid_signature"), position


def test_forged_tokens() -> None:
    packed = identifier().pack()
    for key in (b"", b"n" * 32, RING.newest, secrets.token_bytes(32)):
        forged = Macaroon(version=MACAROON_V2, location="svc", identifier=packed, key=key)
        assert reason(bytes(BinarySerializer().serialize_raw(forged))) in ("invalid_signature", "malformed_credential")


def test_more_credit_cannot_be_written_into_a_token() -> None:
    raw = token()
    amount = raw.index(HASH) + 34
    richer = raw[:amount] + (10**15).to_bytes(8, "big") + raw[amount + 8 :]
    assert reason(richer) == "invalid_signature"


def test_third_party_caveats_are_refused_before_the_library_sees_them() -> None:
    macaroon = BinarySerializer().deserialize_raw(token())
    macaroon.add_third_party_caveat("https://elsewhere", "key", "identifier")
    assert reason(bytes(BinarySerializer().serialize_raw(macaroon))) == "malformed_credential"


def test_monsters_are_refused_before_the_library_sees_them() -> None:
    assert reason(appended(token(), *["a=b"] * MAX_CAVEATS)) == "malformed_credential"
    assert reason(appended(token(), "a" * MAX_BYTES)) == "malformed_credential"
    open_token(RING, appended(token(), *["a=b"] * (MAX_CAVEATS - 2)))


def test_other_formats_and_trailing_bytes_are_refused() -> None:
    v1 = Macaroon(version=MACAROON_V1, location="svc", identifier="plain", key=b"k" * 32)
    for raw in (bytes(BinarySerializer().serialize_raw(v1)), token() + b"\x00", token()[:-1], b"\x02", b"{}", b""):
        assert reason(raw) == "malformed_credential"


@given(st.binary(max_size=300))
def test_nothing_but_a_refusal_is_raised_for_garbage(raw: bytes) -> None:
    for candidate in (raw, b"\x02" + raw, b"\x02\x01\x03svc\x02\x42" + raw):
        with pytest.raises(CredentialRefused):
            open_token(RING, candidate)
        peek_payment_hash(candidate)


@given(st.data())
def test_nothing_but_a_refusal_is_raised_for_damaged_tokens(data: st.DataObject) -> None:
    raw = bytearray(token())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(raw) - 1))
        raw[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        open_token(RING, bytes(raw))
    except CredentialRefused:
        return
    assert HASH in raw  # only what is not authenticated was changed


@pytest.mark.parametrize(
    "text", [base64.b64encode(b"\xfb\xff\xfe"), base64.urlsafe_b64encode(b"\xfb\xff\xfe"), b"-__-", b"+//+"]
)
def test_both_alphabets_are_read(text: bytes) -> None:
    assert decode_base64(text) == b"\xfb\xff\xfe"
    assert decode_base64(b"YQ") == decode_base64(b"YQ==") == b"a"


@pytest.mark.parametrize("text", [b"", b"a", b"+_+_", b"YQ= =", b"Y\nQ==", b"YQ===", b"\xff", b"A" * 5_000])
def test_anything_else_is_not_base64(text: bytes) -> None:
    with pytest.raises(CredentialRefused):
        decode_base64(text)


def test_a_token_knows_which_caveats_the_service_minted() -> None:
    opened = open_token(RING, appended(token(), "svc_valid_until=1"))
    assert opened.minted == (("services", "svc:0"), ("svc_valid_until", "1900000000"))
    assert opened.appended == (("svc_valid_until", "1"),)


def test_how_many_caveats_were_minted_is_part_of_what_is_signed() -> None:
    raw = appended(token(), "region=eu")
    place = raw.index(HASH) + 34
    assert raw[place] == 2
    for count in (0, 1, 3, 255):
        assert reason(raw[:place] + bytes([count]) + raw[place + 1 :]) == "invalid_signature"


def test_holders_narrow_without_a_key() -> None:
    narrowed = narrow(base64.b64encode(token()).decode(), "svc_valid_until=1")
    assert open_token(RING, base64.b64decode(narrowed, validate=True)).appended == (("svc_valid_until", "1"),)
    for macaroon, caveats in (("nonsense!", ["a=b"]), ("AAAA", ["a=b"]), (narrowed, ["a=b"] * MAX_CAVEATS)):
        with pytest.raises(CredentialRefused):
            narrow(macaroon, *caveats)


def test_the_kind_is_part_of_what_is_signed() -> None:
    credit = Identifier.new(HASH, Money.parse("$0"), None, RING.newest, kind=Kind.CREDIT)
    raw = base64.b64decode(mint(RING, credit, "svc", CAVEATS))
    assert open_token(RING, raw).identifier.kind is Kind.CREDIT
    place = raw.index(HASH) + 33
    assert raw[place] == 2
    assert reason(raw[:place] + b"\x00" + raw[place + 1 :]) == "invalid_signature"
