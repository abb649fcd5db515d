import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth.errors import AmbiguousRequest
from fastapi_tollbooth.facts import MISSING, Facts, grouped, parse_json, require_unambiguous

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def body(text: str) -> Facts:
    return Facts(body=parse_json(text.encode()))


@given(json_values)
def test_json_is_read_as_json_is(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "text", [b"", b"{", b"nope", b"\xff\xfe\x00", b"[" * 100, b"1" * 5_000, b"{'a': 1}", b'{"a": 1,}']
)
def test_what_is_not_json_is_missing(text: bytes) -> None:
    assert parse_json(text) is MISSING


@pytest.mark.parametrize("depth", [2_000, 100_000])
def test_what_is_nested_too_deeply_is_not_taken_for_absent(depth: int) -> None:
    with pytest.raises(AmbiguousRequest, match="deep"):
        parse_json(b'{"model": "dear", "deep": ' + b"[" * depth + b"]" * depth + b"}")


def test_a_byte_order_mark_is_read_as_the_handler_reads_it() -> None:
    assert parse_json(b'\xef\xbb\xbf{"model": "x"}') == json.loads(b'\xef\xbb\xbf{"model": "x"}')


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("model", "x"),
        ("options.stream", True),
        ("messages.0.role", "user"),
        ("messages.1.role", MISSING),
        ("messages.-1.role", MISSING),
        ("messages.00.role", "user"),
        ("messages.٠.role", MISSING),
        ("messages.9999999999999999999.role", MISSING),
        ("messages.length", MISSING),
        ("constructor", MISSING),
        ("__class__", MISSING),
        ("model.upper", MISSING),
        ("model.0", MISSING),
        ("nothing", None),
        ("nothing.deeper", MISSING),
    ],
)
def test_bodies_are_walked_by_key_and_index(path: str, found: object) -> None:
    facts = body('{"model": "x", "options": {"stream": true}, "messages": [{"role": "user"}], "nothing": null}')
    assert facts.look_up("body", tuple(path.split("."))) == found


@pytest.mark.parametrize("text", ['{"model": "cheap", "model": "dear"}', '{"a": {"model": 1, "model": 1}}'])
def test_a_key_given_twice_is_ambiguous_where_it_is_read(text: str) -> None:
    facts = body(text)
    path = ("model",) if "a" not in facts.body else ("a", "model")
    with pytest.raises(AmbiguousRequest, match="more than once"):
        facts.look_up("body", path)
    with pytest.raises(AmbiguousRequest):
        require_unambiguous(facts.body)
    assert facts.look_up("body", ("other",)) is MISSING


def test_a_key_given_twice_elsewhere_is_nobody_s_business() -> None:
    facts = body('{"model": "x", "x": {"y": 1, "y": 2}}')
    assert facts.look_up("body", ("model",)) == "x"
    require_unambiguous(body('[{"a": 1}, {"a": 2}]').body)


def test_text_sources() -> None:
    facts = Facts(query=grouped([("a", "1"), ("b", "2"), ("b", "3")]), headers={"x-tier": ["gold"]}, params={"id": "7"})
    assert facts.look_up("query", ("a",)) == "1"
    assert facts.look_up("headers", ("x-tier",)) == "gold"
    assert facts.look_up("params", ("id",)) == "7"
    for source in ("query", "headers", "params"):
        assert facts.look_up(source, ("nothing",)) is MISSING
    with pytest.raises(AmbiguousRequest):
        facts.look_up("query", ("b",))
