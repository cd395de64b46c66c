"""Short clips to train a video denoiser on: where they are cut and how they are turned.

All of it is drawn from a generator seeded with (seed, epoch, position), as in train/patches.py.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from train.batches import Key, numbers_of
from train.clip_data import TrainingVideos
from train.noise import Levels
from train.patches import shares


@dataclass(frozen=True)
class TrainingClips(Dataset[tuple[Tensor, Tensor]]):
    """Clean clips by key, (T, 3, P, P) uint8, and the level of the noise that is to be added, in 1/255.

    Args:
        size: P. An epoch has ``count`` clips of ``frames`` frames, shared out among the videos by their weights.
    """

    videos: TrainingVideos
    frames: int
    size: int
    count: int
    seed: int
    sigma: Levels
    turn: bool
    reverse: bool
    permute_channels: bool

    @cached_property
    def video_of(self) -> npt.NDArray[np.int64]:
        """(count,) which video each clip of an epoch is cut of."""
        return shares(self.videos.weights, self.count)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        rng = numbers_of(self.seed, key)
        clip = self.videos.cut(int(self.video_of[key.picture]), self.frames, self.size, rng)
        if self.turn:
            way = int(rng.integers(8))
            clip = np.rot90(clip if way < 4 else clip[:, :, ::-1], way % 4, axes=(1, 2))
        if self.reverse and rng.random() < 0.5:
            clip = clip[::-1]
        if self.permute_channels:
            clip = clip[..., rng.permutation(3)]
        pixels = torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2)  # (T, P, P, 3) -> (T, 3, P, P)
        return pixels, torch.tensor(self.sigma.draw(rng), dtype=torch.float32)
