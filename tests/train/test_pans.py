"""Pans over photographs: interpolation against Pillow and against itself, the split, and what follows from a seed."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.builtin_photos import InMemory
from train.clip_data import open_videos
from train.pans import HeldOutPans, Pans, motion, pan, taps
from train.pictures import DataError


def waves(height: int, width: int) -> np.ndarray:
    """A smooth picture, given at any place: (height, width, 3) uint8."""
    return at(np.arange(height)[:, None], np.arange(width)[None, :])


def at(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    waves = [np.sin(y / 7 + c) + np.cos(x / 9 - c) for c in range(3)]
    return np.rint(127.5 + 50 * np.stack(waves, axis=-1)).astype(np.uint8)


@given(t=st.floats(0, 1))
def test_interpolation_gives_lines_and_parabolas_back(t: float) -> None:
    places = np.array([-1.0, 0.0, 1.0, 2.0])
    for power in (0, 1, 2):
        assert float(taps(t) @ places**power) == pytest.approx(t**power, abs=1e-5)


def test_whole_pixels_are_the_picture_itself() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    (frame,) = pan(picture, np.array([[3.0, 5.0]]), (16, 24))
    assert np.array_equal(frame, picture[3:19, 5:29])


@settings(max_examples=30, deadline=None)
@given(y=st.floats(1, 10), x=st.floats(1, 10))
def test_between_pixels_is_the_wave_there(y: float, x: float) -> None:
    """Within a grey level for the cubic, and one for each rounding."""
    (frame,) = pan(waves(40, 40), np.array([[y, x]]), (16, 16))
    expected = at(y + np.arange(16)[:, None], x + np.arange(16)[None, :])
    assert np.abs(frame.astype(int) - expected).max() <= 2


@given(frames=st.integers(1, 30), seed=st.integers(0, 50))
def test_a_motion_starts_at_zero_and_is_not_too_fast(frames: int, seed: int) -> None:
    path = motion(frames, np.random.default_rng(seed))
    assert path.shape == (frames, 2)
    assert not path[0].any()
    assert np.abs(np.diff(path, axis=0)).max(initial=0) < 1.5 + 6 * 0.15


@settings(max_examples=40, deadline=None)
@given(height=st.integers(22, 60), width=st.integers(22, 60), frames=st.integers(1, 8), seed=st.integers(0, 99))
def test_a_clip_fits_into_its_picture(height: int, width: int, frames: int, seed: int) -> None:
    """Small pictures too: where a pan would leave the picture, it is slower."""
    photos = InMemory((waves(height, width),), ("wave",), (1.0,))
    clip = Pans(photos).cut(0, frames, 16, np.random.default_rng(seed))
    assert clip.shape == (frames, 16, 16, 3)
    assert np.array_equal(clip, Pans(photos).cut(0, frames, 16, np.random.default_rng(seed)))


def test_clips_larger_than_a_photograph_are_refused() -> None:
    pans = open_videos("builtin:pans").train
    coins = pans.names.index("coins")  # 303 x 384
    assert pans.cut(coins, 2, 299, np.random.default_rng(0)).shape == (2, 299, 299, 3)
    with pytest.raises(
        DataError, match=r"coins has room for clips of 299 pixels, and 300 are asked for; lower data\.p"
    ):
        pans.cut(coins, 2, 300, np.random.default_rng(0))


def test_held_out_clips_are_always_the_same_and_move() -> None:
    pans = HeldOutPans(InMemory((waves(300, 300),), ("wave",), (1.0,)))
    once, again = list(pans.frames(0)), list(pans.frames(0))
    assert len(once) == 24
    assert once[0].shape == (128, 192, 3)
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert all(not np.array_equal(a, b) for a, b in pairwise(once))


def test_the_split_is_that_of_the_photographs() -> None:
    data = open_videos("builtin:pans")
    assert data.held_out.names == ("astronaut", "chelsea", "flower")
    assert not set(data.held_out.names) & set(data.train.names)
    assert len(data.train.names) == len(data.train.weights) == 15
    for index in range(3):
        assert next(data.held_out.frames(index)).shape == (128, 192, 3)


def test_an_unknown_name_is_told_what_there_is() -> None:
    with pytest.raises(DataError, match="write builtin:pans or davis:/folder"):
        open_videos("builtin:photos")
