"""The ladder before a simulated server: it holds the objective, comes back, and does not flap, whatever comes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.models.ladder import Ladder, Load, decide
from serve.models.ladder_load import Cost
from tests.serve.simulated_server import Simulation, poisson

TRUE_S = (0.040, 0.030, 0.018, 0.010)
CAPACITY = 2 / TRUE_S[0]
OBJECTIVE_S = 0.25
HOLD_S = 2.0
RATES = st.floats(0, 6).map(lambda share: share * CAPACITY)
PHASES = st.lists(st.tuples(st.floats(0.1, 6), RATES), min_size=1, max_size=6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("told", [1.0, 0.3, 1.25])
def test_three_times_the_capacity_is_held_and_left_again(told: float, seed: int) -> None:
    phases = [(10.0, 0.3 * CAPACITY), (20.0, 3 * CAPACITY), (15.0, 0.3 * CAPACITY)]
    simulation = Simulation(TRUE_S, [told * s for s in TRUE_S], OBJECTIVE_S)
    simulation.play(poisson(phases, seed), 45.0)
    assert simulation.p99_s(0, 10) <= OBJECTIVE_S
    assert simulation.p99_s(13, 30) <= OBJECTIVE_S
    assert {answered.rung for answered in simulation.answered if answered.came < 10} == {0}
    assert {answered.rung for answered in simulation.answered if answered.came > 40} == {0}
    assert len(simulation.changes) <= 10


def test_a_load_that_the_exact_variant_can_answer_is_left_to_it() -> None:
    simulation = Simulation(TRUE_S, TRUE_S, OBJECTIVE_S)
    simulation.play(poisson([(60.0, 0.4 * CAPACITY)]), 60.0)
    assert simulation.changes == []


def test_a_rung_that_is_dearer_than_it_was_told_is_not_tried_over_and_over() -> None:
    simulation = Simulation((0.06, 0.02), (0.03, 0.02), OBJECTIVE_S)
    simulation.play(poisson([(60.0, 0.93 * 2 / 0.06)]), 60.0)
    assert len(simulation.changes) <= 12, "every hold time would be 30"
    assert simulation.p99_s(3, 60) <= OBJECTIVE_S


@settings(max_examples=20, deadline=None)
@given(PHASES, st.integers(0, 99), st.floats(0.02, 3), st.floats(0.5, 4))
def test_whatever_comes_it_keeps_its_hold_times_and_comes_back(
    phases: list[tuple[float, float]], seed: int, told: float, hold_s: float
) -> None:
    simulation = Simulation(TRUE_S, [told * s for s in TRUE_S], OBJECTIVE_S, hold_s)
    end = sum(seconds for seconds, _ in phases)
    answered_by = end + max(0.0, sum(rate * seconds for seconds, rate in phases) * TRUE_S[0] / 2)
    back_by = answered_by + OBJECTIVE_S + 2 * hold_s + len(TRUE_S) * (hold_s + 0.25)
    simulation.play(poisson(phases, seed), back_by)
    assert simulation.ladder.step == 0
    changed = 0.0
    for when, change in simulation.changes:
        assert change.before != change.after
        if change.after < change.before:
            assert change.after == change.before - 1
            assert when - changed >= hold_s
        changed = when


SHARES = st.floats(0, 3)


@st.composite
def loads(draw: st.DrawFn) -> tuple[int, Load, Load]:
    """A step, a load, and one that is no smaller in anything."""
    count = draw(st.integers(2, 5))
    costs = sorted(draw(st.lists(st.floats(0.001, 0.3), min_size=count, max_size=count)), reverse=True)
    allowed, may_rise = draw(st.floats(0.2, 0.6)), draw(st.booleans())
    rate, rate_lately, waiting = draw(st.floats(0, 300)), draw(st.floats(0, 300)), draw(SHARES)
    pressed = draw(st.sampled_from(["", "late"]))

    def load(more: float, later: float, longer: float, why: str) -> Load:
        return Load(
            waiting_s=waiting + longer,
            allowed_s=allowed,
            alone_s=tuple(costs),
            used=tuple((rate + more) * cost / 2 for cost in costs),
            used_lately=tuple((rate_lately + later) * cost / 2 for cost in costs),
            pressed=why,
            may_rise=may_rise,
        )

    extra = load(
        draw(st.floats(0, 300)), draw(st.floats(0, 300)), draw(SHARES), pressed or draw(st.sampled_from(["", "full"]))
    )
    return draw(st.integers(0, count - 1)), load(0, 0, 0, pressed), extra


@settings(max_examples=100, deadline=None)
@given(loads())
def test_more_load_never_gives_a_more_exact_step(case: tuple[int, Load, Load]) -> None:
    step, less, more = case
    assert decide(step, more, OBJECTIVE_S) >= decide(step, less, OBJECTIVE_S)
    assert decide(step, less, OBJECTIVE_S) >= step - 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ladder(clock: Clock) -> Ladder:
    ladder = Ladder(3, OBJECTIVE_S, HOLD_S, 128, clock)
    for rung, seconds in enumerate((0.04, 0.02, 0.01)):
        ladder.set_cost(rung, Cost(seconds, seconds / 2, 2))
    return ladder


def test_one_late_request_is_nobodys_fault_and_two_are(ladder: Ladder, clock: Clock) -> None:
    works = [ladder.began(0, 1, free=True) for _ in range(2)]
    clock.now = 0.3
    ladder.ended(works[0], answered=True)
    ladder.ended(works[1], answered=False)  # its client went away
    assert ladder.update() is None
    ladder.ended(ladder.began(0, 1, free=True), answered=True)
    work = ladder.began(0, 1, free=True)
    clock.now = 0.6
    ladder.ended(work, answered=True)
    change = ladder.update()
    assert change is not None
    assert (change.before, change.after, "requests are late" in change.why) == (0, 1, True)


def test_requests_of_the_step_before_are_not_held_against_the_new_one(ladder: Ladder, clock: Clock) -> None:
    old = [ladder.began(0, 1, free=True) for _ in range(2)]
    clock.now = 0.3
    assert ladder.update() is not None
    for work in old:
        ladder.ended(work, answered=True)
    clock.now = 0.35
    assert ladder.update() is None


def test_a_client_that_pins_a_variant_is_no_reason_to_step_down(ladder: Ladder, clock: Clock) -> None:
    works = [ladder.began(0, 1, free=False) for _ in range(4)]
    clock.now = 0.3
    assert ladder.update() is None
    for work in works:
        ladder.ended(work, answered=True)
    assert ladder.update() is None


def test_the_work_of_clients_that_pin_counts_all_the_same(ladder: Ladder, clock: Clock) -> None:
    for _ in range(10):
        ladder.began(0, 1, free=False)
    change = ladder.update()
    assert change is not None
    assert change.after > 0


def test_no_way_back_while_a_request_is_stuck_above(ladder: Ladder, clock: Clock) -> None:
    stuck = [ladder.began(0, 1, free=True) for _ in range(2)]
    clock.now = 0.3
    assert ladder.update() is not None
    clock.now = 100.0
    assert ladder.update() is None
    for work in stuck:
        ladder.ended(work, answered=True)
    change = ladder.update()
    assert change is not None
    assert (change.before, change.after) == (1, 0)


def test_no_room_for_requests_steps_down_once_until_that_has_had_its_effect(ladder: Ladder, clock: Clock) -> None:
    clock.now = 1.0
    ladder.press("100 of 128 places are taken")
    change = ladder.update()
    assert change is not None
    assert "100 of 128 places" in change.why
    ladder.press("100 of 128 places are taken")
    assert ladder.update() is None
    clock.now = 1.3
    ladder.press("100 of 128 places are taken")
    assert ladder.update() is not None
    assert ladder.step == 2


def test_what_was_turned_away_long_ago_is_no_reason_to_step_down(ladder: Ladder, clock: Clock) -> None:
    """Nobody looks at the ladder from the end of a load to the next request."""
    clock.now = 1.0
    ladder.press("a request was turned away")
    clock.now = 60.0
    assert ladder.update() is None


def test_a_variant_too_slow_for_the_objective_is_not_gone_back_to(clock: Clock) -> None:
    ladder = Ladder(2, OBJECTIVE_S, HOLD_S, 128, clock)
    ladder.set_cost(0, Cost(0.3, 0.15, 2))
    ladder.set_cost(1, Cost(0.01, 0.005, 2))
    assert ladder.update() is not None, "alone it takes longer than the objective"
    clock.now = 100.0
    assert ladder.update() is None
    assert ladder.step == 1
