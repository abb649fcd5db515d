import math
from typing import Any

import pytest

from fastapi_tollbooth import ConfigurationError, Money, Rule
from fastapi_tollbooth.facts import Facts


def holds(where: dict[str, Any], **facts: Any) -> bool:
    return Rule(where=where, price="$0.01").matches(Facts(**facts))


@pytest.mark.parametrize(
    ("expected", "value", "matches"),
    [
        ("gpt-4o*", "gpt-4o-mini", True),
        ("*", "anything", True),
        ("*", "", True),
        ("*", None, False),
        ("*", 1, False),
        ("*", ["x"], False),
        ("1", 1, False),
        (1, 1, True),
        (1, 1.0, True),
        (1, "1", False),
        (1, True, False),
        (True, True, True),
        (True, 1, False),
        (True, "true", False),
        (0, False, False),
        (0.5, 0.5, True),
        (1, math.nan, False),
        (1, math.inf, False),
        (10**30, 10**30, True),
        (1, 10**400, False),
        (1.5, 10**400, False),
    ],
)
def test_json_compares_by_value(expected: Any, value: Any, matches: bool) -> None:
    assert holds({"body.x": expected}, body={"x": value}) is matches


@pytest.mark.parametrize(
    ("expected", "value", "matches"),
    [
        (10, "10", True),
        (10, "010", False),
        (10, "10.0", False),
        (True, "true", True),
        (True, "True", False),
        (True, "1", False),
        (False, "false", True),
        ("c*v", "csv", True),
        (0.5, "0.5", True),
    ],
)
@pytest.mark.parametrize("source", ["query", "headers", "params", "body"])
def test_text_compares_as_text(source: str, expected: Any, value: str, matches: bool) -> None:
    by_source: dict[str, dict[str, Any]] = {
        "query": {"query": {"x": [value]}},
        "headers": {"headers": {"x": [value]}},
        "params": {"params": {"x": value}},
        "body": {"body": {"x": value}, "body_is_text": True},
    }
    assert holds({f"{source}.x": expected}, **by_source[source]) is matches


def test_every_condition_must_hold() -> None:
    where = {"query.format": "csv", "headers.X-Priority": "high"}
    facts: dict[str, Any] = {"query": {"format": ["csv"]}, "headers": {"x-priority": ["high"]}}
    assert holds(where, **facts)
    assert not holds(where, **{**facts, "headers": {}})
    assert holds({}, body=None)


def test_header_names_have_no_case_and_query_keys_do() -> None:
    assert holds({"headers.X-TIER": "a"}, headers={"x-tier": ["a"]})
    assert not holds({"query.TIER": "a"}, query={"tier": ["a"]})
    assert holds({"query.a.b": "1"}, query={"a.b": ["1"]})


@pytest.mark.parametrize("name", ["model", "body", "body.", "cookies.x", "body..x", "Body.model", "", ".x", 7])
def test_unknown_sources_are_refused_at_declaration(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot be matched"):
        Rule(where={name: "x"}, price="$0.01")


@pytest.mark.parametrize("expected", [None, ["x"], {"a": 1}, b"x"])
def test_values_of_other_types_are_refused_at_declaration(expected: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot be matched"):
        Rule(where={"body.x": expected}, price="$0.01")


def test_a_rule_reads_like_a_sentence() -> None:
    rule = Rule(where={"body.model": "o*", "query.n": 2}, price=Money.parse("$0.5"))
    assert str(rule) == "$0.50 when body.model is o* and query.n is 2"
    assert rule.sources == {"body", "query"}
    assert repr(rule) == "Rule(where={'body.model': 'o*', 'query.n': 2}, price='$0.50')"
    with pytest.raises(ConfigurationError):
        Rule(where={"body.x": 1}, price="free")
    with pytest.raises(ConfigurationError, match="write it like"):
        Rule(where="body.x", price="$1")  # type: ignore[arg-type]
