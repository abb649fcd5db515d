"""What is known of a request when it is priced: its body, query, headers and path parameters. Pure.

A value that decides a price must have one reading. Where a request gives it twice (a query key, a header, a key of a
JSON object, a form field), asking for it raises instead of picking one.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from fastapi_tollbooth.errors import AmbiguousRequest

Source = Literal["body", "query", "headers", "params"]

MISSING: Any = object()
"""What a look-up finds where there is nothing."""


class Facts(NamedTuple):
    """The facts of one request.

    Attributes:
        body: The parsed JSON body, or the fields of a form; None when there is neither.
        query: Every value of each query key.
        headers: Every line of each header, under its lower-case name.
        params: The path parameters, as text.
        body_is_text: Whether the body is a form, whose values are text.
    """

    body: Any = None
    query: Mapping[str, Sequence[str]] = {}
    headers: Mapping[str, Sequence[str]] = {}
    params: Mapping[str, str] = {}
    body_is_text: bool = False

    def look_up(self, source: Source, path: tuple[str, ...]) -> Any:
        """The value at a path of a source, or `MISSING`. Nested bodies are walked by key, lists by index.

        Raises:
            AmbiguousRequest: the request gives this value more than once.
        """
        if source == "body":
            return _walk(self.body, path)
        if source == "params":
            return self.params.get(path[0], MISSING)
        values = (self.query if source == "query" else self.headers).get(path[0], ())
        if len(values) > 1:
            raise ambiguous(f"{source}.{path[0]}")
        return values[0] if values else MISSING


class Repeated(dict[str, Any]):
    """An object that gave some of its keys more than once."""

    __slots__ = ("keys_given_twice",)

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        seen: set[str] = set()
        self.keys_given_twice = {key for key, _ in pairs if key in seen or seen.add(key)}  # type: ignore[func-returns-value]


def parse_json(raw: bytes) -> Any:
    """A JSON text as the handler's own parser reads it, with repeated keys noticed; `MISSING` when it is none.

    Raises:
        AmbiguousRequest: it is nested so deeply that it cannot be said what the handler will see.
    """
    try:
        return json.loads(raw, object_pairs_hook=from_pairs)
    except ValueError:
        return MISSING
    except RecursionError as error:
        raise AmbiguousRequest("ambiguous_request", "The body is nested too deeply to be priced.") from error


def from_pairs(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object from its members, which notices those given twice."""
    members = dict(pairs)
    return members if len(members) == len(pairs) else Repeated(pairs)


def require_unambiguous(value: Any) -> None:
    """Accept a parsed body of which any part may be read.

    Raises:
        AmbiguousRequest: some object in it gives a key twice.
    """
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, Repeated):
            raise ambiguous(f"body key {min(current.keys_given_twice)!r}")
        if isinstance(current, dict):
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)


def grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """All values of each key, in order."""
    values: dict[str, list[str]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return values


def ambiguous(name: str) -> AmbiguousRequest:
    """The refusal of a request that gives a value twice."""
    return AmbiguousRequest("ambiguous_request", f"The request gives {name[:80]} more than once. Give it once.")


def _walk(value: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        if isinstance(value, dict):
            if isinstance(value, Repeated) and step in value.keys_given_twice:
                raise ambiguous("body." + ".".join(path))
            value = value.get(step, MISSING)
        elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10:
            index = int(step)
            value = value[index] if index < len(value) else MISSING
        else:
            return MISSING
    return value
