"""A generated copy of DAVIS: which sequences are for what, clips cut out of frames, and copies that are not whole."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from train.clip_data import open_videos
from train.pictures import DataError


def test_train_and_val_are_trained_on_and_test_dev_is_held_out(davis_copy: Callable[..., Path]) -> None:
    data = open_videos(f"davis:{davis_copy(train=['bear', 'bus'], val=['goat'], test_dev=['tandem'])}")
    assert data.train.names == ("bear", "bus", "goat")
    assert data.held_out.names == ("tandem",)
    assert data.held_out_name == "DAVIS 2017 test-dev 480p, 1 sequences"
    assert data.train.weights.tolist() == [4, 4, 4]
    assert [int(frame[0, 0, 0]) for frame in data.held_out.frames(0)] == [0, 1, 2, 3]


def test_without_test_dev_val_is_held_out(davis_copy: Callable[..., Path]) -> None:
    data = open_videos(f"davis:{davis_copy(train=['bear'], val=['goat'])}")
    assert (data.train.names, data.held_out.names) == (("bear",), ("goat",))


def test_a_clip_is_consecutive_frames_of_one_place(davis_copy: Callable[..., Path]) -> None:
    train = open_videos(f"davis:{davis_copy(train=['bear'], val=['goat'])}").train
    places = set()
    for seed in range(60):
        clip = train.cut(0, 3, 16, np.random.default_rng(seed))
        start, top, left = (int(number) for number in clip[0, 0, 0])
        t, y, x = np.mgrid[start : start + 3, top : top + 16, left : left + 16]
        assert np.array_equal(clip, np.stack([t, y, x], axis=-1))
        places.add((start, top))
    assert len(places) == 2 * 5


@pytest.mark.parametrize(
    ("frames", "size", "match"),
    [(5, 16, "bear has 4 frames, and clips have 5; leave it out"), (2, 21, "frames of 30 x 20, and clips of 21")],
)
def test_a_clip_that_does_not_fit(davis_copy: Callable[..., Path], frames: int, size: int, match: str) -> None:
    train = open_videos(f"davis:{davis_copy(train=['bear'], val=['goat'])}").train
    with pytest.raises(DataError, match=match):
        train.cut(0, frames, size, np.random.default_rng(0))


def test_copies_that_are_not_whole(davis_copy: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs train\.txt, and val\.txt or test-dev\.txt"):
        open_videos(f"davis:{tmp_path}")
    base = davis_copy(train=["bear"], val=["bear"])
    with pytest.raises(DataError, match=r"test-dev\.txt|bear both to train on"):
        open_videos(f"davis:{base}")
    (base / "ImageSets/2017/val.txt").write_text("goat\n")
    with pytest.raises(DataError, match=r"val\.txt names goat, and there is no folder"):
        open_videos(f"davis:{base}")
    (base / "ImageSets/2017/val.txt").write_text("../480p/bear\n")
    with pytest.raises(DataError, match="no folder"):
        open_videos(f"davis:{base}")
    (base / "JPEGImages/480p/goat").mkdir()
    (base / "ImageSets/2017/val.txt").write_text("goat\n")
    with pytest.raises(DataError, match="goat has no frame in it"):
        list(open_videos(f"davis:{base}").held_out.frames(0))


def test_a_damaged_frame_is_named(davis_copy: Callable[..., Path]) -> None:
    base = davis_copy(train=["bear"], val=["goat"])
    (base / "JPEGImages/480p/goat/00002.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"00002\.png is not a readable picture"):
        list(open_videos(f"davis:{base}").held_out.frames(0))
