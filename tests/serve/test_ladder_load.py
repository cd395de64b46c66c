"""What a ladder knows of its load, against plain sums and against what a simulated server really takes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.models.ladder_load import Cost, Costs, Window

STEPS = st.lists(st.tuples(st.floats(0, 2), st.integers(1, 9), st.floats(0, 5)), max_size=60)


@given(STEPS, st.floats(0.1, 5), st.floats(0, 10))
def test_a_window_counts_what_came_within_its_span(
    steps: list[tuple[float, int, float]], span: float, later: float
) -> None:
    window, now, came = Window(span), 0.0, []
    for pause, pictures, work in steps:
        now += pause
        window.add(now, pictures, work)
        came.append((now, pictures, work))
        window.rates(now)
    now += later
    within = [(pictures, work) for time, pictures, work in came if time > now - span]
    pictures, work = window.rates(now)
    assert pictures == sum(count for count, _ in within) / span
    assert work == pytest.approx(sum(work for _, work in within) / span, abs=1e-9)


def saturate(costs: Costs, true_s: list[float], turns: int, now: float = 0.0, rungs: tuple[int, ...] = (0,)) -> float:
    """Keeps eight pictures in hand of a server that finishes one after the other; returns the time."""
    for index in range(8):
        costs.began(rungs[index % len(rungs)], 1, now)
    for index in range(turns):
        rung = rungs[index % len(rungs)]
        now += true_s[rung]
        costs.began(rung, 1, now)
        costs.ended(rung, 1, True, now)
    for index in range(turns, turns + 8):
        costs.ended(rungs[index % len(rungs)], 1, False, now)
    assert not any(costs.in_hand)
    return now


@settings(max_examples=25, deadline=None)
@given(st.floats(0.001, 0.1), st.floats(0.1, 500))
def test_a_cost_is_learned_while_all_is_busy(true_s: float, wrong: float) -> None:
    costs = Costs(2, 128)
    costs.set(0, Cost(0.01, true_s / wrong, 2))
    costs.set(1, Cost(0.01, 0.004, 2))
    now = saturate(costs, [true_s], round(5 / true_s))
    assert costs.picture_s(0, now) == pytest.approx(true_s, rel=0.2)
    assert costs.picture_s(1, now) == 0.004, "the other rung was not at work"
    assert costs.picture_s(0, now + 1000) == pytest.approx(true_s / wrong, rel=0.01), "it is forgotten in time"


def test_what_slows_a_fast_rung_down_slows_those_above_it_down() -> None:
    costs = Costs(3, 128)
    for rung, told in enumerate((0.020, 0.010, 0.005)):
        costs.set(rung, Cost(0.01, told, 2))
    costs.at_least(1, 0.016, 0.0)
    assert [costs.picture_s(rung, 0.0) for rung in range(3)] == pytest.approx([0.026, 0.016, 0.005])


def test_two_rungs_at_work_keep_their_ratio() -> None:
    costs = Costs(2, 128)
    costs.set(0, Cost(0.01, 0.020, 2))
    costs.set(1, Cost(0.01, 0.005, 2))
    now = saturate(costs, [0.040, 0.010], 400, rungs=(0, 1))
    mean = (costs.picture_s(0, now) + costs.picture_s(1, now)) / 2
    assert mean == pytest.approx(0.025, rel=0.15)


def test_nothing_is_learned_while_something_is_idle() -> None:
    costs = Costs(1, 128)
    costs.set(0, Cost(0.01, 0.02, 2))
    for turn in range(100):
        costs.began(0, 1, turn)
        costs.ended(0, 1, True, turn + 0.9)
    assert costs.picture_s(0, 100.0) == 0.02


def test_a_new_version_begins_with_its_own_cost() -> None:
    costs = Costs(1, 128)
    costs.set(0, Cost(0.01, 0.02, 2))
    costs.at_least(0, 0.5, 1.0)
    assert costs.picture_s(0, 1.0) == pytest.approx(0.5)
    costs.at_least(0, 0.1, 1.0)
    assert costs.picture_s(0, 1.0) == pytest.approx(0.5), "no less than it was"
    costs.set(0, Cost(0.01, 0.03, 2))
    assert costs.picture_s(0, 1.0) == 0.03
