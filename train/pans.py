"""``builtin:pans``: clips for a video denoiser, made by moving a frame over the photographs of ``builtin:photos``.

A pan starts somewhere, has a velocity of up to 1.5 pixels a frame to either side in each direction, and trembles by a
little in each frame. At that pace a camera needs 5 seconds of 24 frames or more to cross 192 pixels. Positions are
fractions of a pixel, and pixels between pixels are interpolated by cubics (Catmull-Rom). The split is that of the
photographs. A held-out clip is 24 frames of 192 x 128 pixels of one photograph, always the same, its way laid through
the photograph's middle.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from skipvit.transforms import Pixels
from train.builtin_photos import InMemory, builtin_photos
from train.clip_data import VideoData
from train.pictures import DataError

URI = "builtin:pans"

Path = npt.NDArray[np.float64]  # (frames, 2): the upper left corner in each frame, rows and columns

_SPEED, _TREMBLE, _STILL = 1.5, 0.15, 0.1
_HELD_OUT_FRAMES, _HELD_OUT_SIZE = 24, (128, 192)
_SEED = 7  # of the held-out motions
_REACH = 2  # pixels around a frame that interpolation reads


@dataclass(frozen=True)
class Pans:
    """Pans over photographs that are in memory."""

    photographs: InMemory

    @property
    def names(self) -> tuple[str, ...]:
        return self.photographs.names

    @cached_property
    def weights(self) -> npt.NDArray[np.float64]:
        return self.photographs.weights

    def cut(self, index: int, frames: int, size: int, rng: np.random.Generator) -> Pixels:
        """A random pan (frames, size, size, 3) over a photograph.

        Raises:
            DataError: the photograph is smaller than that.
        """
        picture = self.photographs.open(index).clean
        if (most := min(picture.shape[:2]) - 2 * _REACH) < size:
            raise DataError(
                f"{self.names[index]} has room for clips of {most} pixels, and {size} are asked for; lower data.patch"
            )
        path = motion(frames, rng)
        room = np.array(picture.shape[:2]) - size - 2 * _REACH - np.ptp(path, axis=0)
        if (room < 0).any():  # too fast for a picture of this size: slower by what is missing
            path *= np.clip(1 + (room - 1e-6) / np.maximum(np.ptp(path, axis=0), 1e-6), 0, 1)
            room = np.array(picture.shape[:2]) - size - 2 * _REACH - np.ptp(path, axis=0)
        corner = _REACH - path.min(axis=0) + rng.random(2) * np.maximum(room, 0)
        return pan(picture, path + corner, (size, size))


@dataclass(frozen=True)
class HeldOutPans:
    """One pan over each of some photographs."""

    photographs: InMemory

    @property
    def names(self) -> tuple[str, ...]:
        return self.photographs.names

    def frames(self, index: int) -> Iterator[Pixels]:
        picture = self.photographs.open(index).clean
        path = motion(_HELD_OUT_FRAMES, np.random.default_rng([_SEED, index]), still=0.0)
        middle = (np.array(picture.shape[:2]) - _HELD_OUT_SIZE) / 2
        path += middle - (path.min(axis=0) + path.max(axis=0)) / 2
        for corner in path:
            yield pan(picture, corner[None], _HELD_OUT_SIZE)[0]


def builtin_pans() -> VideoData:
    """Pans over 15 photographs to train on, and one over each of 3 others.

    Raises:
        DataError: a package that brings some is not installed, or has left one out.
    """
    photos = builtin_photos()
    train, held_out = photos.train, photos.held_out
    assert isinstance(train, InMemory)
    assert isinstance(held_out, InMemory)
    height, width = _HELD_OUT_SIZE
    name = f"pans of {_HELD_OUT_FRAMES} frames, {width} x {height}, over {photos.held_out_name}"
    return VideoData(URI, Pans(train), HeldOutPans(held_out), name)


def motion(frames: int, rng: np.random.Generator, still: float = _STILL) -> Path:
    """A way from (0, 0): one velocity, and a tremble; a share ``still`` of them stays where it is."""
    velocity = rng.uniform(-_SPEED, _SPEED, 2) * (rng.random() >= still)
    steps = velocity + rng.normal(0, _TREMBLE, (frames - 1, 2)) * bool(velocity.any())
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])


def pan(picture: Pixels, corners: Path, size: tuple[int, int]) -> Pixels:
    """Frames (n, height, width, 3) of a picture (H, W, 3) at ``corners`` (n, 2); 1 pixel around each must be inside."""
    height, width = size
    frames = np.empty((len(corners), height, width, 3), np.uint8)
    for frame, (y, x) in zip(frames, corners, strict=True):
        top, left = int(np.floor(y)), int(np.floor(x))
        patch = picture[top - 1 : top + height + 2, left - 1 : left + width + 2].astype(np.float32)
        rows = sum(tap * patch[i : i + height] for i, tap in enumerate(taps(y - top)))
        pixels = sum(tap * rows[:, i : i + width] for i, tap in enumerate(taps(x - left)))
        frame[:] = np.rint(np.clip(pixels, 0, 255))
    return frames


def taps(t: float) -> npt.NDArray[np.float32]:
    """Weights of the pixels at -1, 0, 1 and 2 for the place t in 0..1 (Keys, IEEE TASSP 29 (1981), a = -1/2)."""
    cubic = [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    return np.array(cubic, np.float32) / np.float32(2)
