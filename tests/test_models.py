import re
from datetime import date

import pytest

from fastapi_tollbooth import Money
from fastapi_tollbooth.models import built_in, find_model

TABLE = {name: Money.parse("$1") for name in ("gpt-4", "gpt-4o", "gpt-4o-mini", "o1")}


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4o:eu", "gpt-4o"),
        ("gpt-4o@2024", "gpt-4o"),
        ("gpt-4-turbo", "gpt-4"),
        ("gpt-4.1", None),
        ("gpt-4omni", None),
        ("GPT-4o", None),
        ("o1", "o1"),
        ("o10", None),
        ("", None),
        ("-gpt-4o", None),
        ("ft:gpt-4o:acme", None),
    ],
)
def test_the_longest_id_that_a_model_extends(model: str, found: str | None) -> None:
    assert find_model(TABLE, model) == found


def test_the_built_in_table_states_its_date_and_sources() -> None:
    table = built_in()
    assert date.fromisoformat(table.as_of) <= date.today()
    assert all(source.startswith("https://") for source in table.sources)
    assert {"gpt-4o", "gpt-4o-mini", "gpt-3.5-turbo"} <= set(table.prices)
    assert all(price.amount > 0 and re.match(r"\$", str(price)) for price in table.prices.values())
    assert table.basis
