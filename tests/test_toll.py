import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth import Asset, ConfigurationError, Money, Toll, TollboothError
from fastapi_tollbooth.errors import TollClosed, TollExceeded
from fastapi_tollbooth.terms import Terms
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


def metered(price: str = "$0.50", amount: str = "$0.50") -> Toll:
    held = Money.parse(amount)
    return Toll("7", Money.parse(price), held, held, "l402:aa", "l402", "/", metered=True)


def test_what_is_used_adds_up_and_is_charged_in_the_asset_of_the_credit() -> None:
    of = metered("$0.50", "500 sat")
    assert of.charge == Money.parse("0 sat")
    assert of.use("$0.0123") == Money.parse("$0.0123")
    assert of.use(Money.parse("$0.0001")) == Money.parse("$0.0124")
    assert of.charge == Money.parse("12400 msat")
    assert of.balance_after(of.charge) == Money.parse("987600 msat")


@given(price=st.integers(1, 10**9), amount=st.integers(1, 10**12), used=st.integers(0, 10**9))
def test_what_is_charged_rounds_up_and_never_exceeds_what_is_held(price: int, amount: int, used: int) -> None:
    of = Toll("7", Money(price, Asset.USD), Money(amount, Asset.BTC), None, "a", "l402", "/", metered=True)
    of.use(Money(min(used, price), Asset.USD))
    assert 0 <= of.charge.amount <= amount
    assert of.charge.amount * price >= min(used, price) * amount
    assert (of.charge.amount - 1) * price < min(used, price) * amount


def test_more_than_is_held_is_not_used() -> None:
    of = metered()
    of.use("$0.40")
    with pytest.raises(TollExceeded, match="holds"):
        of.use("$0.11")
    assert of.charge == Money.parse("$0.40")
    with pytest.raises(ConfigurationError):
        of.use("5 sat")


def test_only_a_metered_toll_is_used_bit_by_bit() -> None:
    with pytest.raises(TollClosed, match="metered=True"):
        toll().use("$0.001")


def test_a_handler_may_charge_less_and_not_more() -> None:
    of = toll()
    of.charge_instead("$0.004")
    assert of.charge == Money.parse("$0.004")
    of.refund()
    assert of.charge.is_zero
    with pytest.raises(TollExceeded):
        of.charge_instead("$0.02")
    for state in (State.CAPTURED, State.VOIDED):
        with pytest.raises(TollClosed, match="reconcile"):
            toll(state).refund()


def test_a_free_metered_toll_counts_without_a_limit() -> None:
    free = free_toll(Quote(CENT, "/weather", "client", terms=Terms(metered=True)))
    assert free.use("$5") == Money.parse("$5")
    assert free.charge.is_zero


def test_the_use_of_what_is_not_charged_breaks_nothing() -> None:
    of = metered()
    of.advance(Event.VOID)
    of.use("$0.40")
    assert of.use("$0.40") == Money.parse("$0.80")
    captured = metered()
    captured.advance(Event.CAPTURE)
    with pytest.raises(TollClosed, match="captured"):
        captured.use("$0.01")
