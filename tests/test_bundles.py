from typing import Any

import pytest

from fastapi_tollbooth import ConfigurationError, Money, TollboothSettings
from fastapi_tollbooth.bundles import Bundle, chosen, parse_bundles
from fastapi_tollbooth.errors import AmbiguousRequest

SMALL = Bundle(Money.parse("10000 sat"), Money.parse("11000 sat"))
LARGE = Bundle(Money.parse("$100"), Money.parse("$125"))


def test_bundles_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "TOLLBOOTH_BUNDLES", '[{"pay": "10000 sat", "get": "11000 sat"}, {"pay": "$100", "get": "$125"}]'
    )
    assert TollboothSettings(_env_file=None).bundles == (SMALL, LARGE)
    assert TollboothSettings(_env_file=None, bundles=[SMALL._asdict()]).bundles == (SMALL,)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"pay": "1 sat"},
        {"pay": "2 sat", "get": "1 sat"},
        {"pay": "0 sat", "get": "1 sat"},
        {"pay": "1 sat", "get": "$1"},
        {"pay": "1 sat", "get": 2},
        {"pay": "1 sat", "get": "2 sat", "bonus": "all"},
        {"pay": "many", "get": "more"},
        "1 sat",
        None,
    ],
)
def test_what_is_no_bundle(entry: Any) -> None:
    with pytest.raises(ConfigurationError):
        parse_bundles([entry])


@pytest.mark.parametrize(
    "text", ["{", "1", '"x"', '[{"pay": "1 sat", "get": "2 sat"}, {"pay": "1 sat", "get": "3 sat"}]']
)
def test_nonsense_in_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TOLLBOOTH_BUNDLES", text)
    with pytest.raises(ValueError, match="bundles"):
        TollboothSettings(_env_file=None)


def test_callers_choose_by_what_it_costs() -> None:
    bundles = (SMALL, LARGE)
    assert chosen(bundles, []) is None
    assert chosen(bundles, ["10000 sat"]) is chosen(bundles, ["10000 sats"]) is SMALL
    assert chosen(bundles, ["$100"]) is chosen(bundles, ["100.00 USD"]) is LARGE


@pytest.mark.parametrize("choices", [["1 sat"], ["many"], [""], ["10000 sat", "$100"], ["10000 sat", "10000 sat"]])
def test_any_other_choice_is_refused_and_says_what_there_is(choices: list[str]) -> None:
    with pytest.raises(AmbiguousRequest) as refused:
        chosen((SMALL, LARGE), choices)
    assert refused.value.reason == "unknown_bundle"
    assert "10000 sat, $100.00" in refused.value.detail
