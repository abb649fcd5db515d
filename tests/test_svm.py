"""Solana transactions: what they pay, and that nothing else is taken for a payment."""

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_tollbooth.errors import CredentialRefused
from fastapi_tollbooth.rails.x402.networks import find_network
from fastapi_tollbooth.rails.x402.payments import Asked, mismatch, read_payment
from fastapi_tollbooth.rails.x402.svm import TOKEN_PROGRAMS, associated_account, decode_base58, encode_base58

SOLANA = find_network("solana")
MINT = decode_base58(SOLANA.token.address)
OWNER, SOURCE, FEE_PAYER = b"\x07" * 32, b"\x08" * 32, b"\x09" * 32
PAY_TO = encode_base58(b"\x01" * 32)
DESTINATION = "Gs6NxmndAL3PULGZeYUHCknpMdDVbL46eFCBh856p5z6"
ASKED = Asked(SOLANA, 10_000, PAY_TO)


def instruction(amount: int = 10_000, kind: int = 12, program: int = 5) -> bytes:
    data = bytes([kind]) + amount.to_bytes(8, "little") + b"\x06"
    return bytes([program, 4, 2, 3, 4, 1, len(data)]) + data


def transaction(
    *instructions: bytes,
    destination: str = DESTINATION,
    mint: bytes = MINT,
    signatures: bytes = bytes(128),
    version: bytes = b"\x80",
) -> str:
    keys = [FEE_PAYER, OWNER, SOURCE, mint, decode_base58(destination), TOKEN_PROGRAMS[0]]
    message = version + b"\x02\x00\x01" + bytes([len(keys)]) + b"".join(keys) + bytes(32)
    message += bytes([len(instructions)]) + b"".join(instructions) + (b"\x00" if version else b"")
    return base64.b64encode(b"\x02" + signatures + message).decode()


def reason(sent: str, asked: Asked = ASKED) -> str:
    try:
        problem = mismatch(read_payment({"transaction": sent}, asked), asked, 0)
    except CredentialRefused as refused:
        problem = refused
    assert problem is not None
    return problem.reason


@pytest.mark.parametrize("version", [b"\x80", b""])
def test_the_payment_that_was_asked_for(version: bytes) -> None:
    found = read_payment({"transaction": transaction(instruction(), version=version)}, ASKED)
    assert found.payer == encode_base58(OWNER)
    assert found.spend_key.startswith(f"x402:{SOLANA.id}:{SOLANA.token.address}:{found.payer}:")


def test_the_facilitator_s_signature_slot_does_not_make_another_payment() -> None:
    keys = {
        read_payment({"transaction": transaction(instruction(), signatures=fill)}, ASKED).spend_key
        for fill in (bytes(128), b"\x05" * 128)
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (transaction(instruction(9_999)), "wrong_amount"),
        (transaction(instruction(), mint=b"\x04" * 32), "wrong_asset"),
        (transaction(instruction(), destination=encode_base58(SOURCE)), "wrong_recipient"),
        (transaction(), "malformed_payment"),
        (transaction(instruction(), instruction()), "malformed_payment"),
        (transaction(instruction(kind=3)), "malformed_payment"),
        (transaction(instruction(program=9)), "malformed_payment"),
        ("", "malformed_payment"),
        ("!", "malformed_payment"),
        (base64.b64encode(bytes(2_000)).decode(), "malformed_payment"),
    ],
)
def test_anything_else_is_refused(sent: str, expected: str) -> None:
    assert reason(sent) == expected


@settings(max_examples=300)
@given(st.binary(max_size=400), st.integers(0, 400))
def test_cut_and_changed_transactions_are_refused_or_read(noise: bytes, at: int) -> None:
    good = base64.b64decode(transaction(instruction()))
    for raw in (noise, good[:at], good[:at] + noise[:3] + good[at + 3 :]):
        try:
            found = read_payment({"transaction": base64.b64encode(raw).decode()}, ASKED)
        except CredentialRefused:
            continue
        assert found.nonce == hashlib.sha256(raw[129:]).hexdigest()


@pytest.mark.parametrize(
    ("owner", "account"),
    [
        (1, DESTINATION),
        (2, "8Ae4vjYTZ5Z8mq2GJMUXpU2LDKMsqDaA7Tg7sZ85Gz9T"),
        (3, "GewoiTtgmMFV5vERJqe64UJXUW2ygmxtAxZ8mhpju1dH"),
    ],
)
def test_token_accounts_are_those_that_solana_derives(owner: int, account: str) -> None:
    # As spl.token.instructions.get_associated_token_address computes them.
    assert associated_account(encode_base58(bytes([owner]) * 32), SOLANA.token.address, TOKEN_PROGRAMS[0]) == account


@given(st.binary(max_size=64))
def test_base58_keeps_every_byte(data: bytes) -> None:
    assert decode_base58(encode_base58(data)) == data
