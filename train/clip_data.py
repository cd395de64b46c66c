"""What every source of clean video offers: random windows to train on, and whole sequences, frame by frame."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from skipvit.transforms import Pixels
from train.pictures import DataError


class TrainingVideos(Protocol):
    """Sequences to cut short clips of."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """(n,) how often each sequence is drawn, relative to the others."""
        ...

    def cut(self, index: int, frames: int, size: int, rng: np.random.Generator) -> Pixels:
        """A random clip (frames, size, size, 3) uint8 of a sequence.

        Raises:
            DataError: the sequence cannot be read, or is too small or too short.
        """
        ...


class HeldOutVideos(Protocol):
    """Sequences to measure on."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def frames(self, index: int) -> Iterator[Pixels]:
        """The sequence's frames (H, W, 3) uint8, in order, one at a time.

        Raises:
            DataError: a frame cannot be read.
        """
        ...


@dataclass(frozen=True)
class VideoData:
    """Sequences for training and held-out ones, none in both; ``held_out_name`` says in words what was measured on."""

    uri: str
    train: TrainingVideos
    held_out: HeldOutVideos
    held_out_name: str


def open_videos(uri: str) -> VideoData:
    """Opens the data set that a URI names.

    Raises:
        DataError: the URI is not one of ours, or what it names cannot be used.
    """
    scheme, _, rest = uri.partition(":")
    if (scheme, rest) == ("builtin", "pans"):
        from train.pans import builtin_pans

        return builtin_pans()
    if scheme == "davis" and rest:
        from train.davis import davis

        return davis(rest)
    raise DataError(f"{uri!r} names no video to denoise; write builtin:pans or davis:/folder")
