import pytest

from fastapi_tollbooth import Money, Toll, TollboothError
from fastapi_tollbooth.toll import TRANSITIONS, Event, Quote, State, free_toll

CENT = Money.parse("$0.01")


def toll(state: State = State.AUTHORIZED) -> Toll:
    return Toll(
        "7", CENT, CENT, Money.parse("$0.09"), "l402:aa", "l402", "/weather", state=state, authorization="internal"
    )


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_a_toll_moves_only_as_the_table_says(state: State, event: Event) -> None:
    moved = toll(state)
    if (state, event) in TRANSITIONS:
        moved.advance(event)
        assert moved.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(TollboothError, match="cannot"):
            moved.advance(event)
        assert moved.state is state


def test_captured_and_voided_are_final() -> None:
    for final in (State.CAPTURED, State.VOIDED):
        assert {target for (state, _), target in TRANSITIONS.items() if state is final} == {final}
        assert not toll(final).is_open
    assert toll().is_open


def test_a_free_toll_costs_nothing() -> None:
    free = free_toll(Quote(CENT, "/weather", "client"))
    assert free.amount.is_zero
    assert free.state is State.FREE
    assert not free.is_open


def test_what_the_rail_knows_is_not_shown() -> None:
    assert "internal" not in repr(toll())
