import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth.glob import compile_glob


def slow(pattern: str, value: str) -> bool:
    """What a glob means, by definition."""
    if not pattern:
        return not value
    if pattern[0] == "*":
        return any(slow(pattern[1:], value[skip:]) for skip in range(len(value) + 1))
    return bool(value) and value[0] == pattern[0] and slow(pattern[1:], value[1:])


@given(st.text("ab*", max_size=7), st.text("ab*\n", max_size=9))
def test_it_means_what_it_should(pattern: str, value: str) -> None:
    assert compile_glob(pattern)(value) is slow(pattern, value)


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("claude-haiku-*", "claude-haiku-4-5-20251001", True),
        ("claude-haiku-*", "claude-sonnet-4", False),
        ("gpt-4o*", "gpt-4o", True),
        ("gpt-4o*", "gpt-4o-mini", True),
        ("gpt-4o*", "GPT-4o", False),
        ("*", "", True),
        ("*", "any/thing\nat all", True),
        ("**", "x", True),
        ("", "", True),
        ("", "x", False),
        ("a*a", "a", False),
        ("ab*ba", "aba", False),
        ("*.csv", "a.csv.csv", True),
        ("a?c", "abc", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("gpt-4?*", "gpt-XYZ", False),
        ("(x|y)", "x", False),
        ("gpt-4", "ｇｐｔ-4", False),
        ("gpt-4", "gpt-4\n", False),
        ("gpt-4", " gpt-4", False),
        ("gpt-4", "gpt-4\u200b", False),
    ],
)
def test_examples(pattern: str, value: str, matches: bool) -> None:
    assert compile_glob(pattern)(value) is matches


@pytest.mark.parametrize("pattern", ["a*a*a*a*b", "*a*a*a*a*a*a*a*a*c", "a*b*a*b*a*b*c*d", "*" * 1_000 + "b"])
def test_no_value_makes_it_slow(pattern: str) -> None:
    matches = compile_glob(pattern)
    started = time.perf_counter()
    for value in ("a" * 65_536, "ab" * 32_768, "a" * 65_535 + "c"):
        matches(value)
    assert time.perf_counter() - started < 1
