"""Fixtures for attacks: the same shop on every rail."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.counters import COUNTERS, Counter, counter_of


@pytest.fixture(params=COUNTERS)
def counter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Counter]:
    """A shop that takes payments over each rail in turn."""
    with counter_of(request.param, tmp_path) as made:
        yield made
