from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth.per_minute import KEYS, PerMinute


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_so_many_at_once_and_then_at_that_pace() -> None:
    clock = Clock()
    limit = PerMinute(6, clock)
    assert [limit.take("a") for _ in range(7)] == [0] * 6 + [10]
    assert limit.take("b") == 0
    clock.now += 9.5
    assert limit.take("a") == 1
    clock.now += 0.5
    assert [limit.take("a"), limit.take("a")] == [0, 10]
    clock.now += 3_600
    assert [limit.take("a") for _ in range(7)] == [0] * 6 + [10]


def test_what_did_not_happen_is_given_back() -> None:
    limit = PerMinute(1, Clock())
    assert limit.take("a") == 0
    limit.give_back("a")
    limit.give_back("a")
    limit.give_back("nobody")
    assert [limit.take("a"), limit.take("a") > 0, limit.take("nobody")] == [0, True, 0]


@given(st.integers(1, 100), st.lists(st.floats(0, 30), max_size=200))
def test_never_more_than_the_limit_and_what_comes_back_in_the_time(limit: int, pauses: list[float]) -> None:
    clock = Clock()
    bucket, happened = PerMinute(limit, clock), 0
    for pause in pauses:
        clock.now += pause
        happened += bucket.take() == 0
    assert happened <= limit + (clock.now - 100) * limit / 60 + 1e-6


@given(st.integers(1, 1_000))
def test_whoever_waits_as_long_as_told_may(limit: int) -> None:
    clock = Clock()
    bucket = PerMinute(limit, clock)
    while not (wait := bucket.take()):
        pass
    assert wait >= 1
    clock.now += wait
    assert bucket.take() == 0


def test_callers_cannot_fill_the_memory() -> None:
    limit = PerMinute(1, Clock())
    for number in range(KEYS + 100):
        limit.take(str(number))
    assert len(limit._buckets) == KEYS
