"""The headers of x402, read strictly: both versions, and ten thousand things that are neither."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_tollbooth.errors import CredentialRefused
from fastapi_tollbooth.rails.x402 import wire
from tests.x402_payer import encode, payload

ACCEPTED = {
    "scheme": "exact",
    "network": "eip155:8453",
    "amount": "10000",
    "asset": "0x" + "12" * 20,
    "payTo": "0x" + "5e" * 20,
    "maxTimeoutSeconds": 60,
    "extra": {"name": "USDC", "version": "2"},
}
V2 = {"x402Version": 2, "accepted": ACCEPTED, "payload": payload(10_000), "resource": {"url": "https://x"}}
V1 = {"x402Version": 1, "scheme": "exact", "network": "base", "payload": payload(10_000)}


def credential(value: str | bytes, name: bytes = b"payment-signature") -> wire.X402Credential:
    found = wire.find([(name, value if isinstance(value, bytes) else value.encode())])
    assert found is not None
    return found


def test_a_payment_is_found_under_both_names_and_no_other() -> None:
    assert wire.find([(b"authorization", b"L402 x"), (b"payment-response", b"x")]) is None
    assert credential("x", b"x-payment").lines == ((1, b"x"),)


def test_version_2_is_read_and_kept_word_for_word() -> None:
    envelope = wire.parse(credential(encode(V2)))
    assert (envelope.version, envelope.scheme, envelope.network) == (2, "exact", "eip155:8453")
    assert envelope.asset == ACCEPTED["asset"]
    assert envelope.raw == V2


def test_version_1_is_read() -> None:
    envelope = wire.parse(credential(encode(V1), b"x-payment"))
    assert (envelope.version, envelope.network, envelope.raw) == (1, "base", V1)


def test_one_payment_under_both_names_is_one_and_two_are_none() -> None:
    line = encode(V2).encode()
    both = wire.find([(b"payment-signature", line), (b"x-payment", line)])
    assert both is not None
    assert wire.parse(both).version == 2
    other = wire.find([(b"payment-signature", line), (b"payment-signature", encode(V1).encode())])
    assert other is not None
    with pytest.raises(CredentialRefused, match="two of them"):
        wire.parse(other)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"!",
        b"e30",
        base64.urlsafe_b64encode(b'{"x":"\xff\xfe\xfb?>"}'),
        encode([]).encode(),
        encode({}).encode(),
        encode({"x402Version": 3}).encode(),
        encode(V2 | {"x402Version": "2"}).encode(),
        encode(V2 | {"x402Version": True}).encode(),
        encode(V1 | {"payload": []}).encode(),
        encode(V2 | {"accepted": ACCEPTED | {"amount": 10_000}}).encode(),
        base64.b64encode(b'{"x402Version":1,"x402Version":1,"scheme":"exact","network":"base","payload":{}}'),
        base64.b64encode(b'{"x402Version":1,"scheme":"exact","network":"base","payload":{"a":NaN}}'),
        base64.b64encode(b'{"x402Version":1,"scheme":"exact","network":"base","payload":{"a":"\\ud800"}}'),
        base64.b64encode(b'{"x402Version":1,"scheme":"exact","network":"base","payload":' + b"[" * 4_000),
        base64.b64encode(b'{"x402Version":' + b"9" * 5_000 + b"}"),
        b"A" * 20_000,
    ],
)
def test_what_cannot_be_read_is_refused(value: bytes) -> None:
    with pytest.raises(CredentialRefused) as refused:
        wire.parse(credential(value))
    assert refused.value.reason == "malformed_payment"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
paths: list[tuple[str, ...]] = [
    ("x402Version",),
    ("accepted",),
    ("accepted", "network"),
    ("accepted", "amount"),
    ("accepted", "extra"),
    ("payload",),
    ("payload", "authorization"),
    ("scheme",),
]


def changed(document: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(document))
    place = copy
    for step in path[:-1]:
        place = place.setdefault(step, {})
    place[path[-1]] = value
    return copy


@settings(max_examples=1_000)
@given(st.sampled_from([V1, V2]), st.sampled_from(paths), json_values)
def test_a_changed_document_is_read_or_refused(document: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    try:
        envelope = wire.parse(credential(encode(changed(document, path, value))))
    except CredentialRefused:
        return
    assert envelope.version in (1, 2)
    assert isinstance(envelope.payload, dict)


@settings(max_examples=1_000)
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode) | json_values.map(lambda v: encode(v).encode()))
def test_anything_at_all_is_read_or_refused(value: bytes) -> None:
    for name in wire.HEADERS:
        with pytest.raises(CredentialRefused):
            wire.parse(credential(value, name))


def test_what_is_encoded_is_standard_base64_of_json() -> None:
    assert json.loads(base64.b64decode(wire.encode({"a": "ü?>"}), validate=True)) == {"a": "ü?>"}
