"""Whose turn it is: priorities, models and requests, by a clock that the test holds; nothing here is about speed."""

import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.ticket import Ticket
from serve.turns import STEP_S, Turns, Waiting
from serve.urgency import Priority

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW
PRIORITIES = st.sampled_from(list(Priority))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ticket(priority: Priority, since: float) -> Ticket:
    made = Ticket(lambda _: None, priority)
    made.waiting_since = since
    return made


def taken(turns: "Turns[str]", count: int) -> list[str | None]:
    return [turns.get() for _ in range(count)]


def test_an_engine_takes_high_before_normal_before_low_and_each_by_age() -> None:
    waiting = Waiting()
    tickets = [ticket(priority, since) for since, priority in enumerate([LOW, NORMAL, HIGH, NORMAL, HIGH])]
    for one in tickets:
        one.waiting_since /= 1000
        waiting.append(one)
    assert waiting.oldest_since == 0
    order = [tickets.index(waiting.popleft()) for _ in range(len(waiting))]
    assert order == [2, 4, 1, 3, 0]
    assert len(waiting) == 0


@settings(max_examples=40)
@given(st.lists(st.tuples(PRIORITIES, st.floats(0, 10)), max_size=30))
def test_who_has_waited_a_step_longer_is_a_level_higher(arrivals: list[tuple[Priority, float]]) -> None:
    """The oracle: sorted by arrival plus one step for each level below high."""
    waiting, turns, clock = Waiting(), Turns[int](), Clock()
    turns = Turns(clock)
    tickets = [ticket(priority, since) for priority, since in sorted(arrivals, key=lambda arrival: arrival[1])]
    for number, one in enumerate(tickets):
        waiting.append(one)
        clock.now = one.waiting_since
        turns.put(number, "model", one.priority)
    expected = sorted(tickets, key=lambda one: one.waiting_since + (one.priority - 1) * STEP_S)
    ranks = [one.waiting_since + (one.priority - 1) * STEP_S for one in expected]
    for found in (
        [waiting.popleft() for _ in tickets],
        [tickets[number] for _ in tickets if (number := turns.get()) is not None],
    ):
        assert [one.waiting_since + (one.priority - 1) * STEP_S for one in found] == ranks


def test_low_is_not_starved_by_a_stream_of_high() -> None:
    clock = Clock()
    turns: Turns[str] = Turns(clock)
    turns.put("low", "model", LOW)
    order = []
    while not order or order[-1] != "low":
        clock.now += STEP_S / 10
        turns.put("high", "model", HIGH)
        order.append(turns.get())
    assert len(order) == 21  # those that came within two steps


def test_behind_a_request_of_many_a_single_picture_waits_for_one() -> None:
    turns: Turns[str] = Turns()
    for place in range(4):
        turns.put(f"big {place}", "model", NORMAL, place)
    turns.put("small", "model", NORMAL)
    assert taken(turns, 3) == ["big 0", "small", "big 1"]
    turns.put("late", "model", NORMAL)
    assert taken(turns, 3) == ["big 2", "late", "big 3"]


@given(st.integers(1, 5), st.integers(2, 8))
def test_a_request_of_many_is_not_starved_by_single_ones(singles: int, pictures: int) -> None:
    """Of its pictures, one is taken in every round of those that came before it."""
    turns: Turns[str] = Turns()
    for place in range(pictures):
        turns.put("big", "model", NORMAL, place)
    order: list[str | None] = []
    for _ in range(pictures):
        for _ in range(singles):
            turns.put("small", "model", NORMAL)
        order += taken(turns, singles)
    assert order.count("big") >= len(order) // (singles + 1) - 1


def test_models_take_turns_by_the_time_they_took() -> None:
    turns: Turns[str] = Turns()
    cost = {"slow": 10.0, "fast": 1.0}
    for _ in range(100):
        for model in cost:
            turns.put(model, model, NORMAL)
    spent: Counter[str] = Counter()
    for _ in range(55):
        model = turns.get()
        assert model is not None
        turns.charge(model, cost[model])
        spent[model] += cost[model]
    assert 0.5 < spent["slow"] / spent["fast"] < 2, "each had about half of the time"


def test_a_model_without_work_saves_up_nothing() -> None:
    turns: Turns[str] = Turns()
    for _ in range(30):
        turns.put("busy", "busy", NORMAL)
    for _ in range(20):
        turns.charge(str(turns.get()), 1.0)
    for _ in range(10):
        turns.put("newcomer", "newcomer", NORMAL)
    order = []
    for _ in range(10):
        order.append(str(turns.get()))
        turns.charge(order[-1], 1.0)
    assert order[0] == "newcomer"
    assert 4 <= order.count("newcomer") <= 6


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abc"), PRIORITIES, st.integers(0, 3)), max_size=60))
def test_everything_comes_out_once(items: list[tuple[str, Priority, int]]) -> None:
    turns: Turns[int] = Turns()
    for number, (model, priority, place) in enumerate(items):
        turns.put(number, model, priority, place)
    assert len(turns) == len(items)
    assert sorted(turns.get() or 0 for _ in items) == list(range(len(items)))
    turns.close(1)
    assert turns.get() is None


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_share_it(threads: int) -> None:
    turns: Turns[int] = Turns()
    found: list[list[int]] = [[] for _ in range(threads)]

    def work(mine: list[int]) -> None:
        while (number := turns.get()) is not None:
            mine.append(number)

    workers = [threading.Thread(target=work, args=(mine,)) for mine in found]
    for worker in workers:
        worker.start()
    for number in range(500):
        turns.put(number, number % 3, Priority(1 + number % 3), number % 5)
    turns.close(threads)
    for worker in workers:
        worker.join(30)
    assert sorted(number for mine in found for number in mine) == list(range(500))
