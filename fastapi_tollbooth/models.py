"""Prices by language model: the route's own table, and a dated table of common models behind it. Pure.

A dated or suffixed id (``gpt-4o-2024-08-06``, ``gpt-4o:eu``) has the price of the longest id in a table that it begins
with. Ids are compared exactly: case matters, and ``gpt-4.1`` does not begin with ``gpt-4``.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import NamedTuple

from fastapi_tollbooth.money import Money

_SEPARATORS = ("-", ":", "@")


class ModelTable(NamedTuple):
    """The built-in table, the day that its prices were right, what they mean, and where they were published."""

    as_of: str
    basis: str
    sources: tuple[str, ...]
    prices: Mapping[str, Money]


@cache
def built_in() -> ModelTable:
    """The table that comes with the package. Prices age: compare ``as_of`` before relying on it."""
    data = json.loads(resources.files(__package__).joinpath("models.json").read_text())
    prices = {model: Money.parse(price) for model, price in data["prices"].items()}
    return ModelTable(data["as_of"], data["basis"], tuple(data["sources"]), prices)


def find_model(table: Mapping[str, Money], model: str) -> str | None:
    """The id in a table that prices this model: itself, or the longest that it extends."""
    if model in table:
        return model
    found = [known for known in table if model.startswith(known) and model[len(known) : len(known) + 1] in _SEPARATORS]
    return max(found, key=len, default=None)
