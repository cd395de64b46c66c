"""How close restored sequences come to the clean ones: per frame, then the mean of each sequence.

FastDVDnet's protocol (arXiv 1907.01361): noise is drawn once for the whole sequence, so that a frame has the same noise
in every window that sees it, and is not clipped. Figures over several sequences are means of the sequences' means.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from itertools import islice

import numpy as np

from skipvit.transforms import Pixels
from train.clip_data import HeldOutVideos
from train.noise import Picture, evaluation_noise
from train.picture_quality import Quality, quality

Restorer = Callable[[Iterable[Picture]], Iterator[Picture]]


@dataclass(frozen=True)
class Sequence:
    """A held-out sequence under noise; ``most`` frames of it, or with 0 all."""

    videos: HeldOutVideos
    index: int
    sigma: float
    most: int = 0

    @property
    def name(self) -> str:
        return self.videos.names[self.index]

    def clean(self) -> Iterator[Pixels]:
        """Frames (H, W, 3) uint8."""
        return islice(self.videos.frames(self.index), self.most or None)

    def noisy(self) -> Iterator[Picture]:
        """The same frames in 0..1 with noise, each frame's the same whenever it is asked for."""
        for number, frame in enumerate(self.clean()):
            yield evaluation_noise(frame.astype(np.float32) / np.float32(255), self.sigma, f"{self.name}/{number}")


def frame_qualities(sequence: Sequence, restore: Restorer) -> list[Quality]:
    """Of each frame of what ``restore`` makes of the noisy sequence."""
    return [
        quality(restored, clean) for restored, clean in zip(restore(sequence.noisy()), sequence.clean(), strict=True)
    ]


def mean(qualities: Iterable[Quality]) -> Quality:
    """The mean of each figure; decibels are averaged as they are."""
    return Quality(*np.mean([astuple(each) for each in qualities], axis=0).tolist())
