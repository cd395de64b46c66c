"""The last ten seconds, against a plain list of what happened in them."""

import math
import statistics
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.monitoring.recent import WINDOW_S, Figures, Recent, figures_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Event(NamedTuple):
    pause_s: float
    kind: str
    value: float


EVENTS = st.lists(
    st.builds(
        Event,
        st.sampled_from([0.0, 0.3, 1.0, 4.0, 25.0]),
        st.sampled_from(["answered", "rejected", "failed", "batch"]),
        st.floats(2e-4, 500.0),
    ),
    max_size=40,
)


@given(EVENTS)
def test_figures_are_those_of_the_last_seconds(events: list[Event]) -> None:
    clock = Clock()
    recent = Recent(clock)
    kept: list[tuple[float, Event]] = []
    for event in events:
        clock.now += event.pause_s
        kept.append((clock.now, event))
        if event.kind == "answered":
            recent.answered(event.value)
        elif event.kind == "batch":
            recent.batch(math.ceil(event.value))
        else:
            getattr(recent, event.kind)()
    figures = recent.figures()
    last = [event for at, event in kept if at >= int(clock.now) - WINDOW_S]

    def of(kind: str) -> list[float]:
        return [event.value for event in last if event.kind == kind]

    assert 1.0 <= figures.seconds <= WINDOW_S + 1
    assert figures.answered == len(of("answered"))
    assert (figures.rejected, figures.failed) == (len(of("rejected")), len(of("failed")))
    assert figures.batches == len(of("batch"))
    assert figures.images == sum(map(math.ceil, of("batch")))
    times = sorted(of("answered"))
    if times:
        assert figures.p50_s == pytest.approx(statistics.median_low(times), rel=0.026)
        assert figures.p99_s == pytest.approx(times[math.ceil(0.99 * len(times)) - 1], rel=0.026)
    else:
        assert figures.p50_s is figures.p99_s is None


def test_times_beyond_the_bins_are_counted_at_their_ends() -> None:
    recent = Recent(Clock())
    for seconds in (0.0, 1e9):
        recent.answered(seconds)
    figures = recent.figures()
    assert figures.answered == 2
    assert figures.p50_s is not None
    assert figures.p99_s is not None
    assert figures.p50_s < 2e-4
    assert figures.p99_s > 900


def test_an_idle_server_has_nothing_to_say() -> None:
    assert Recent(Clock()).figures() == Figures(1.0, 0, 0, 0, 0, 0, None, None)


@given(EVENTS, st.lists(st.integers(0, 2), min_size=40, max_size=40))
def test_several_processes_are_as_one(events: list[Event], places: list[int]) -> None:
    clock = Clock()
    whole, parts = Recent(clock), [Recent(clock) for _ in range(3)]
    for event, place in zip(events, places, strict=False):
        clock.now += event.pause_s
        for recent in (whole, parts[place]):
            if event.kind in ("answered", "batch"):
                getattr(recent, event.kind)(event.value)
            else:
                getattr(recent, event.kind)()
    assert figures_of([part.tally() for part in parts]) == pytest.approx(whole.figures(), nan_ok=True)
