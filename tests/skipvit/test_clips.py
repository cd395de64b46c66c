"""Windows over clips of any length: each frame kept once, in its place, with the context it was promised."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipvit.clips import Window, plan_windows, reflect, slide


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int]:
    """frames, lead and lag of a window that keeps something."""
    lead, lag = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    return lead + lag + draw(st.integers(1, 5)), lead, lag


@settings(max_examples=300, deadline=None)
@given(n=st.integers(0, 40), shape=shapes())
def test_every_frame_is_kept_once_and_in_order(n: int, shape: tuple[int, int, int]) -> None:
    windows = plan_windows(n, *shape)
    assert [window.places[place] for window in windows for place in range(shape[0])[window.kept]] == list(range(n))
    assert [window.first + i for window in windows for i in range(window.count)] == list(range(n))


@settings(max_examples=300, deadline=None)
@given(n=st.integers(1, 40), shape=shapes())
def test_what_is_kept_has_its_context(n: int, shape: tuple[int, int, int]) -> None:
    """Every kept frame has ``lead`` frames before it and ``lag`` after it in its window, or all that the clip has."""
    frames, lead, lag = shape
    for window in plan_windows(n, *shape):
        assert len(window.places) == frames
        for place in range(frames)[window.kept]:
            frame = window.places[place]
            assert set(range(max(0, frame - lead), frame)) <= set(window.places[:place])
            assert set(range(frame + 1, min(n, frame + lag + 1))) <= set(window.places[place + 1 :])


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 40), shape=shapes())
def test_frames_arrive_with_their_window_and_few_are_held(n: int, shape: tuple[int, int, int]) -> None:
    read: list[int] = []

    def clip() -> Iterator[np.ndarray]:
        for number in range(n):
            read.append(number)
            yield np.full((2, 2), number)

    for window, held in slide(clip(), *shape):
        assert [int(frame[0, 0]) for frame in held] == list(window.places)
        assert read[-1] - min(window.places) <= shape[0]


def test_a_clip_is_as_many_windows_as_it_needs() -> None:
    """Frames 5, lead and lag 1: three frames a window, save at the ends; the last window ends with the clip."""
    assert plan_windows(9, 5, 1, 1) == [
        Window((0, 1, 2, 3, 4), slice(0, 4), 0),
        Window((3, 4, 5, 6, 7), slice(1, 4), 4),
        Window((4, 5, 6, 7, 8), slice(3, 5), 7),
    ]
    assert [window.first for window in plan_windows(8, 5, 1, 1)] == [0, 4]


@pytest.mark.parametrize(
    ("n", "places"), [(5, (0, 1, 2, 3, 4)), (3, (0, 1, 2, 1, 0)), (2, (0, 1, 0, 1, 0)), (1, (0, 0, 0, 0, 0))]
)
def test_a_short_clip_is_reflected(n: int, places: tuple[int, ...]) -> None:
    assert plan_windows(n, 5, 2, 2) == [Window(places, slice(0, n), 0)]


def test_exact_multiples_without_overlap() -> None:
    assert [window.places for window in plan_windows(6, 3)] == [(0, 1, 2), (3, 4, 5)]


@given(n=st.integers(1, 9), pad=st.integers(0, 30))
def test_reflection_is_numpys(n: int, pad: int) -> None:
    assert [reflect(i, n) for i in range(-pad, n + pad)] == np.pad(np.arange(n), pad, mode="reflect").tolist()


@pytest.mark.parametrize("shape", [(0, 0, 0), (3, 2, 1), (3, -1, 0), (3, 0, -1)])
def test_refuses_a_window_that_keeps_nothing(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"it needs lead >= 0, lag >= 0 and lead \+ lag < frames"):
        plan_windows(4, *shape)


def test_refuses_a_negative_length() -> None:
    with pytest.raises(ValueError, match="cannot have -1 frames"):
        plan_windows(-1, 3)
