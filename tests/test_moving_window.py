import math

from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth.moving_window import KEYS, MovingWindow
from fastapi_tollbooth.terms import RateLimit

A, B = ("a",), ("b",)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def wait(window: MovingWindow, limit: RateLimit, key: tuple[str, ...] = A) -> int:
    full = window.hit(limit, key)
    return 0 if full is None else full.wait


def test_so_many_in_any_minute() -> None:
    clock, limit = Clock(), RateLimit.per_minute(3)
    window = MovingWindow(clock)
    for clock.now in (100.0, 110.0, 120.0):
        assert wait(window, limit) == 0
    assert wait(window, limit, B) == 0
    clock.now = 159.5
    assert wait(window, limit) == 1
    clock.now = 160.0
    assert [wait(window, limit), wait(window, limit)] == [0, 11]


def test_what_did_not_happen_is_given_back() -> None:
    window, limit = MovingWindow(Clock()), RateLimit.per_minute(1)
    assert wait(window, limit) == 0
    for key in (A, A, B):
        window.give_back(key)
    assert [wait(window, limit), wait(window, limit) > 0, wait(window, limit, B)] == [0, True, 0]


def test_looking_counts_nothing() -> None:
    window, limit = MovingWindow(Clock()), RateLimit.per_minute(1)
    assert window.look(limit, A) is None
    assert wait(window, limit) == 0
    assert window.look(limit, A) == window.hit(limit, A) is not None


@given(st.integers(1, 100), st.lists(st.floats(0, 30), max_size=200))
def test_whoever_waits_as_long_as_told_may(limit: int, pauses: list[float]) -> None:
    clock, per_minute = Clock(), RateLimit.per_minute(limit)
    window, happened = MovingWindow(clock), list[float]()
    for pause in pauses:
        clock.now += pause
        seconds = wait(window, per_minute)
        if seconds:
            clock.now = math.nextafter(clock.now + seconds, math.inf)
            assert wait(window, per_minute) == 0
        happened.append(clock.now)
    assert all(sum(start <= time < start + 60 for time in happened) <= limit for start in happened)


def test_callers_cannot_fill_the_memory() -> None:
    window = MovingWindow(Clock())
    for number in range(KEYS + 100):
        window.hit(RateLimit.per_minute(1), (str(number),))
    assert len(window._times) == KEYS
