"""Events and their encryption, by the vectors of the specifications."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_tollbooth.lightning.nostr import (
    InvalidEvent,
    Keys,
    _padded_length,
    decrypt,
    encrypt,
    encrypt_04,
    read_event,
)

ONE, TWO = Keys((1).to_bytes(32, "big")), Keys((2).to_bytes(32, "big"))
SHARED = ONE.shared(TWO.public)


def test_the_vector_of_nip_44() -> None:
    # https://github.com/nostr-protocol/nips/blob/master/44.md: secrets 1 and 2, nonce 1, plaintext "a".
    payload = (
        "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABee0G5VSK0/9YypIObAtDKfYEAjD35uVkHyB0F4DwrcNaCXlCWZKaArsGrY6M9wnuTMxWfp1RTN"
        "9Xga8no+kF5Vsb"
    )
    assert encrypt(SHARED, "a", (1).to_bytes(32, "big")) == payload
    assert decrypt(TWO.shared(ONE.public), payload) == "a"


@pytest.mark.parametrize(
    ("length", "padded"),
    [(16, 32), (32, 32), (33, 64), (37, 64), (45, 64), (65, 96), (100, 128), (200, 224), (256, 256), (320, 320),
     (383, 384), (515, 640), (1024, 1024), (65535, 65536)],
)  # fmt: skip
def test_lengths_are_padded_as_nip_44_says(length: int, padded: int) -> None:
    assert _padded_length(length) == padded


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1, max_size=500), st.booleans())
def test_what_is_encrypted_is_read_by_the_other_side_only(text: str, old: bool) -> None:
    content = (encrypt_04 if old else encrypt)(SHARED, text)
    assert decrypt(TWO.shared(ONE.public), content) == text
    if not old:
        with pytest.raises(InvalidEvent):
            decrypt(TWO.shared(TWO.public), content)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 98), st.integers(1, 255))
def test_a_changed_byte_is_noticed(position: int, change: int) -> None:
    payload = bytearray(base64.b64decode(encrypt(SHARED, "pay me")))
    payload[position] ^= change
    with pytest.raises(InvalidEvent):
        decrypt(SHARED, base64.b64encode(payload).decode())


@pytest.mark.parametrize(
    "content", ["", "#", "AAAA", "A" * 200, "?iv=", "AAAA?iv=AAAA", "x" * 100 + "?iv=" + "A" * 22 + "=="]
)
def test_what_is_not_encrypted_for_us_is_refused(content: str) -> None:
    with pytest.raises(InvalidEvent):
        decrypt(SHARED, content)


@pytest.mark.parametrize("text", ["", "x" * 65_536])
def test_what_cannot_be_encrypted_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be encrypted"):
        encrypt(SHARED, text)


def test_an_event_of_nip_01_is_read_and_a_changed_one_is_not() -> None:
    event = ONE.sign(1, [["p", "x"], ["e"]], 'newline \n quote " é \u2028', 1_700_000_000)
    document = json.loads(json.dumps(event.document()))
    assert read_event(document) == event
    assert (event.tag("p"), event.tag("e"), event.tag("t")) == ("x", None, None)
    for name, value in {"content": "other", "created_at": 1, "kind": 2, "tags": [], "pubkey": TWO.public.hex()}.items():
        with pytest.raises(InvalidEvent):
            read_event(document | {name: value})


@pytest.mark.parametrize("document", [None, [], {}, "x", {"id": 5}])
def test_what_is_no_event_is_refused(document: object) -> None:
    with pytest.raises(InvalidEvent):
        read_event(document)


def test_what_is_no_key_is_refused() -> None:
    for secret in (b"\x00" * 32, b"\xff" * 32, b"short"):
        with pytest.raises(ValueError, match=r".*"):
            Keys(secret)
    with pytest.raises(ValueError, match=r".*"):
        ONE.shared(b"\xff" * 32)
