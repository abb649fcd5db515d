"""What L402 credentials look like in headers. That each form is also accepted is tested with the rail."""

import hashlib

import pytest

from fastapi_tollbooth.errors import AmbiguousRequest, CredentialRefused
from fastapi_tollbooth.rails.l402_credential import L402Credential, claimed_hash, find, parse

PREIMAGE = b"p" * 32


def line(preimage: bytes = PREIMAGE) -> tuple[bytes, bytes]:
    return b"authorization", f"L402 AAAA:{preimage.hex()}".encode()


@pytest.mark.parametrize("value", [b"Bearer abc", b"Basic abc", b"", b"Payment x", b"L40"])
def test_other_schemes_are_not_ours(value: bytes) -> None:
    assert find([(b"authorization", value), (b"host", b"l402")]) is None


def test_every_header_that_may_carry_one_is_found() -> None:
    headers = [line(), (b"macaroon", b"00"), (b"grpc-metadata-macaroon", b"00"), (b"x", b"L402 y")]
    found = find(headers)
    assert found is not None
    assert found.lines == tuple(headers[:3])


@pytest.mark.parametrize(
    "line",
    [
        "L402",
        "L402 ",
        "L402 :",
        "L402 abc",
        "L402 abc:def",
        f"L402 :{'0' * 64}",
        f"L402 ,:{'0' * 64}",
        f"L402 abc:{'0' * 63}",
        f"L402 abc:{'g' * 64}",
        f"L402 abc:{'0' * 66}",
        f"L402 {'A' * 5000}:{'0' * 64}",
        f"L402 {'AAAA,' * 9}AAAA:{'0' * 64}",
        f"L402 ab c:{'0' * 64}",
        f"L402abc:{'0' * 64}",
        "L402 macaroon=x, preimage=y",
    ],
)
def test_unreadable_credentials_are_refused(line: str) -> None:
    with pytest.raises(CredentialRefused) as refused:
        parse(L402Credential(((b"authorization", line.encode()),)))
    assert refused.value.reason == "malformed_credential"


@pytest.mark.parametrize("line", [b"zz", b"0", b"02" * 3_000, b"02"])
def test_unreadable_hex_credentials_are_refused(line: bytes) -> None:
    with pytest.raises(CredentialRefused):
        parse(L402Credential(((b"macaroon", line),)))


def test_two_different_credentials_are_ambiguous() -> None:
    with pytest.raises(AmbiguousRequest):
        parse(L402Credential((line(), line(b"q" * 32))))


def test_a_credential_is_not_shown() -> None:
    assert PREIMAGE.hex() not in repr(L402Credential((line(),)))


def test_what_a_credential_claims() -> None:
    assert claimed_hash(L402Credential((line(),))) == hashlib.sha256(PREIMAGE).digest()
    assert claimed_hash(L402Credential(((b"authorization", b"L402 nonsense"),))) is None
    assert claimed_hash(L402Credential((line(), line(b"q" * 32)))) is None
