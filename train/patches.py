"""Patches of photographs to train a denoiser on: where they are cut, how they are turned, and their noise.

All of it is drawn from a generator seeded with (seed, epoch, position), so that a patch is the same in a run that was
resumed, and however a batch is shared out over processes and workers.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from skipvit.transforms import Pixels
from train.batches import Key, numbers_of
from train.noise import Noise
from train.photographs import Kept, Pair
from train.pictures import DataError


@dataclass(frozen=True)
class TrainingPatches(Dataset[tuple[Tensor, Tensor]]):
    """Patches by key: noisy (3, P, P) float32 in 0..1 but for what noise adds, and clean (3, P, P) uint8.

    Args:
        kept: the photographs, decoded once where memory allows.
        size: P. An epoch has ``count`` patches, shared out among the photographs by their weights.
        noise: added to pictures that have none of their own.
    """

    kept: Kept
    size: int
    count: int
    seed: int
    noise: Noise | None
    turn: bool
    permute_channels: bool

    @cached_property
    def photograph_of(self) -> npt.NDArray[np.int64]:
        """(count,) which photograph each patch of an epoch is cut of."""
        return shares(self.kept.photographs.weights, self.count)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        rng = numbers_of(self.seed, key)
        index = int(self.photograph_of[key.picture])
        pair = self._varied(self._crop(self.kept.open(index), index, rng), rng)
        clean = np.ascontiguousarray(pair.clean)
        if pair.noisy is not None:
            noisy = pair.noisy.astype(np.float32) / np.float32(255)
        else:
            assert self.noise is not None, "clean pictures come with a kind of noise"
            noisy = self.noise(clean.astype(np.float32) / np.float32(255), rng)
        # (P, P, 3) -> (3, P, P)
        return torch.from_numpy(noisy).permute(2, 0, 1), torch.from_numpy(clean).permute(2, 0, 1)

    def _crop(self, pair: Pair, index: int, rng: np.random.Generator) -> Pair:
        height, width = pair.clean.shape[:2]
        if min(height, width) < self.size:
            name = self.kept.photographs.names[index]
            raise DataError(
                f"{name} is {width} x {height} pixels, smaller than a patch of {self.size}; "
                "leave it out, or lower data.patch"
            )
        top, left = (int(rng.integers(side - self.size + 1)) for side in (height, width))
        window = np.s_[top : top + self.size, left : left + self.size]
        return Pair(pair.clean[window], None if pair.noisy is None else pair.noisy[window])

    def _varied(self, pair: Pair, rng: np.random.Generator) -> Pair:
        """Turned, mirrored, its channels exchanged: of 8 and of 6 ways one, the same for both of a pair."""
        way = int(rng.integers(8)) if self.turn else 0
        channels = rng.permutation(3) if self.permute_channels else None
        clean, noisy = (None if pixels is None else _turned(pixels, way, channels) for pixels in pair)
        assert clean is not None
        return Pair(clean, noisy)


def _turned(pixels: Pixels, way: int, channels: npt.NDArray[np.int64] | None) -> Pixels:
    turned = np.rot90(pixels if way < 4 else pixels[:, ::-1], way % 4)
    return turned if channels is None else turned[:, :, channels]


def shares(weights: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """(count,) indices in rising order, each as often as its weight says, to the nearest whole number."""
    upto = np.cumsum(weights) / np.sum(weights)
    return np.minimum(np.searchsorted(upto, (np.arange(count) + 0.5) / count, side="right"), len(weights) - 1)
