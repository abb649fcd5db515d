"""Match rules: conditions on a request's facts, and the price where all of them hold. Pure.

    Rule(where={"body.model": "claude-haiku-*", "query.format": "csv"}, price="$0.005")

Text (query, headers, path parameters, form fields) compares as text: ``10`` is ``"10"``, ``True`` is ``"true"``.
JSON bodies compare by JSON value, and globs only ever match strings. What is missing or null matches nothing, not even
``*``.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast, get_args

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.facts import MISSING, Facts, Source
from fastapi_tollbooth.glob import compile_glob
from fastapi_tollbooth.money import Money

Expected = str | int | float | bool

_SOURCES = get_args(Source)


class Rule:
    """A price for the requests that meet every condition.

    Args:
        where: From a source and path, such as ``body.model``, ``body.messages.0.role``, ``query.format``,
            ``headers.x-priority`` or ``params.city``, to the value or glob that it must have.
        price: What such a request costs.

    Raises:
        ConfigurationError: a source is unknown, a value is neither text, number nor boolean, or the price is no money.
    """

    __slots__ = ("_conditions", "price", "where")

    def __init__(self, *, where: Mapping[str, Expected], price: str | Money) -> None:
        if not isinstance(where, Mapping):
            raise ConfigurationError("not_a_rule", f'where={where!r}: write it like {{"body.model": "claude-haiku-*"}}')
        self.where = dict(where)
        self.price = price if isinstance(price, Money) else Money.parse(price)
        self._conditions = tuple(_Condition(name, expected) for name, expected in where.items())

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> Any:
        """Refuse to be read from a request, which ``Depends(priced)`` without a call makes FastAPI try."""
        raise ConfigurationError(
            "priced_not_called",
            'write Depends(priced("$0.01")): `priced` is called with the price, and gives the dependency',
        )

    @property
    def sources(self) -> set[Source]:
        """What the conditions are about."""
        return {condition.source for condition in self._conditions}

    def look_at(self, facts: Facts) -> list[Any]:
        """What the rule reads.

        Raises:
            AmbiguousRequest: a value that it reads is given twice.
        """
        return [facts.look_up(condition.source, condition.path) for condition in self._conditions]

    def matches(self, facts: Facts) -> bool:
        """Whether every condition holds.

        Raises:
            AmbiguousRequest: a value that it reads is given twice.
        """
        return all(condition.holds(facts) for condition in self._conditions)

    def __str__(self) -> str:
        conditions = " and ".join(f"{name} is {expected}" for name, expected in self.where.items())
        return f"{self.price} when {conditions or 'called'}"

    def __repr__(self) -> str:
        return f"Rule(where={self.where!r}, price={str(self.price)!r})"


def parse_rule(entry: Any) -> Rule:
    """A rule as ``match`` lists it: one, or a mapping with its conditions and its price.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(entry, Rule):
        return entry
    if not isinstance(entry, Mapping) or set(entry) != {"where", "price"}:
        raise ConfigurationError(
            "not_a_rule",
            f'{entry!r} is not a rule: write {{"where": {{"body.model": "claude-haiku-*"}}, "price": "$0.005"}}',
        )
    return Rule(where=entry["where"], price=entry["price"])


class _Condition:
    __slots__ = ("_holds_as_json", "_holds_as_text", "path", "source")

    def __init__(self, name: str, expected: Expected) -> None:
        source, *path = name.split(".") if isinstance(name, str) else ("",)
        if source not in _SOURCES or not path or not all(path):
            raise ConfigurationError(
                "unknown_source",
                f"{name!r} cannot be matched: a condition is about body.<path>, query.<key>, headers.<name> "
                "or params.<name>",
            )
        self.source = cast(Source, source)
        if source == "body":
            self.path = tuple(path)
        else:
            key = ".".join(path)
            self.path = (key.lower() if source == "headers" else key,)
        self._holds_as_text = _text_test(name, expected)
        self._holds_as_json = _json_test(expected)

    def holds(self, facts: Facts) -> bool:
        value = facts.look_up(self.source, self.path)
        if value is MISSING or value is None:
            return False
        if self.source == "body" and not facts.body_is_text:
            return self._holds_as_json(value)
        return self._holds_as_text(value) if isinstance(value, str) else False


def _text_test(name: str, expected: Expected) -> Callable[[str], bool]:
    if isinstance(expected, bool):
        return ("true" if expected else "false").__eq__
    if isinstance(expected, int | float):
        return str(expected).__eq__
    if isinstance(expected, str):
        return compile_glob(expected)
    raise ConfigurationError(
        "unmatchable_value", f"{name}={expected!r} cannot be matched: write text, a number or a boolean"
    )


def _json_test(expected: Expected) -> Callable[[Any], bool]:
    if isinstance(expected, bool):
        return lambda value: value is expected
    if isinstance(expected, int | float):
        return lambda value: not isinstance(value, bool) and isinstance(value, int | float) and value == expected
    glob = compile_glob(expected)
    return lambda value: isinstance(value, str) and glob(value)
