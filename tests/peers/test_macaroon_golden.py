"""The wire format of tokens, pinned to what Go's gopkg.in/macaroon.v2 writes: every Lightning client reads that."""

import base64
import hashlib
import hmac

from fastapi_tollbooth.rails.macaroon import peek_payment_hash, signed

ROOT_KEY = bytes(range(32))
PAYMENT_HASH, TOKEN_ID = bytes(range(0x82, 0xA2)), bytes(range(0xA2, 0xC2))
IDENTIFIER = b"\x00\x00" + PAYMENT_HASH + TOKEN_ID
CAVEATS = ["services=svc:0", "svc_capabilities=read,write", "svc_valid_until=1700000000"]
SIGNATURE = bytes.fromhex("185028fb95fc11c16aa6c0cc901caa83859a71220a88ac0bec750b696e9e25db")


def field(tag: int, data: bytes) -> bytes:
    """A field of the V2 binary format: tag, length, data."""
    return bytes([tag, len(data)]) + data


def golden_token() -> bytes:
    """The token as Go writes it, field by field."""
    caveats = b"".join(field(2, caveat.encode()) + b"\x00" for caveat in CAVEATS)
    return b"\x02" + field(1, b"lsat") + field(2, IDENTIFIER) + b"\x00" + caveats + b"\x00" + field(6, SIGNATURE)


def test_a_minted_token_is_the_one_that_go_writes() -> None:
    text = signed(ROOT_KEY, IDENTIFIER, "lsat", CAVEATS)
    assert base64.b64decode(text, validate=True) == golden_token()
    assert golden_token().hex().startswith("0201046c736174024200008283")


def test_the_signature_is_the_chain_of_hmacs_that_go_computes() -> None:
    # Not HMAC(root key, identifier), as the specification's text has it: no implementation does that.
    key = hmac.digest(b"macaroons-key-generator", ROOT_KEY, hashlib.sha256)
    for part in [IDENTIFIER, *(caveat.encode() for caveat in CAVEATS)]:
        key = hmac.digest(key, part, hashlib.sha256)
    assert key == SIGNATURE


def test_go_s_token_is_read() -> None:
    assert peek_payment_hash(golden_token()) == PAYMENT_HASH
