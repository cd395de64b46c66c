"""Which pictures a step sees, in which order, and with which random numbers.

All of it is a function of (seed, epoch, position) or (seed, step, rank), so a run needs no sampler state and no random
state to go on exactly where it was, and the order does not depend on the number of processes or workers.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from skipvit.transforms import Preprocessing
from train.pictures import DataError, Labels, Pictures

# What random numbers are for; streams of different purpose never meet.
_ORDER, _PICTURE, _STEP, _GLYPHS = range(4)


class Key(NamedTuple):
    """One picture of one epoch. ``position`` is its place in the epoch's order."""

    epoch: int
    position: int
    picture: int


@dataclass(frozen=True)
class Order(Sampler[list[Key]]):
    """Batches of keys, from step ``start`` to step ``stop``.

    A step's batch is ``batch`` pictures over all ``world`` processes and ``accumulate`` parts. Of that row of pictures,
    rank r takes the r-th stretch, and part m of it is the m-th stretch of that. Pictures that do not fill a batch are
    left out of their epoch, others in each.
    """

    pictures: int
    batch: int
    seed: int
    start: int = 0
    stop: int = 0
    repeats: int = 1
    rank: int = 0
    world: int = 1
    accumulate: int = 1

    @property
    def steps_per_epoch(self) -> int:
        return self.pictures // self.batch

    def __iter__(self) -> Iterator[list[Key]]:
        part = self.batch // (self.world * self.accumulate)
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.start, self.stop):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = epoch_order(self.pictures, self.seed, epoch, self.repeats)
            first = step % self.steps_per_epoch * self.batch + self.rank * self.batch // self.world
            for low in range(first, first + self.accumulate * part, part):
                yield [Key(epoch, position, int(order[position])) for position in range(low, low + part)]

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulate


def epoch_order(pictures: int, seed: int, epoch: int, repeats: int = 1) -> Labels:
    """Picture indices (n,) in the order of an epoch; with repeats, fewer pictures, each so many times in a row."""
    order = np.random.default_rng([seed, _ORDER, epoch]).permutation(pictures)
    return np.repeat(order, repeats)[:pictures]


class TrainingPictures(Dataset[tuple[Tensor, int]]):
    """Pictures by key, transformed to (3, H, W) uint8 with random numbers that follow from the key alone.

    Args:
        keep: decode and transform each picture once only; for a transform that is not random.
    """

    def __init__(
        self, pictures: Pictures, transform: Callable[[Image.Image], Tensor], seed: int, keep: bool = False
    ) -> None:
        self.pictures, self.transform, self.seed = pictures, transform, seed
        self.labels = pictures.labels.tolist()
        self.kept: dict[int, Tensor] | None = {} if keep else None

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        if self.kept is not None:
            if key.picture not in self.kept:
                self.kept[key.picture] = self.transform(self.pictures.open(key.picture))
            return self.kept[key.picture], self.labels[key.picture]
        seed_everything(self.seed, _PICTURE, key.epoch, key.position)
        return self.transform(self.pictures.open(key.picture)), self.labels[key.picture]


class HeldOutPictures(Dataset[tuple[Tensor, int]]):
    """Pictures by index, as the server would see them: (H, W, 3) uint8."""

    def __init__(self, pictures: Pictures, preprocessing: Preprocessing) -> None:
        self.pictures, self.preprocessing = pictures, preprocessing

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.preprocessing(self.pictures.open(index))
        return torch.from_numpy(pixels.copy()), int(self.pictures.labels[index])


def load(
    dataset: Dataset[Any], batches: Sampler[list[Key]] | Sequence[list[int]], workers: int, pin: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pictures, and labels (B,) or whatever else the data set pairs with them.

    They are decoded ahead of need in ``workers`` processes, or on demand in this one.

    Raises:
        DataError: a picture cannot be decoded.
    """
    decoded = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_one_thread if workers else None,
    )
    try:
        yield from decoded
    except DataError as error:
        # A worker process's error arrives with its whole traceback for a message.
        raise DataError(str(error).strip().splitlines()[-1].removeprefix("train.pictures.DataError: ")) from None


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)  # workers are the parallelism


def seed_step(seed: int, step: int, part: int, rank: int) -> None:
    """Seeds everything that the device side of one part of a step draws: mixing, erasing, drop path."""
    seed_everything(seed, _STEP, step, part, rank)


def glyph_numbers(seed: int, step: int, batch: int, columns: int) -> Tensor:
    """Uniform numbers (batch, columns) for the whole batch of a step, the same on every process."""
    return torch.from_numpy(np.random.default_rng([seed, _GLYPHS, step]).random((batch, columns), dtype=np.float32))


def numbers_of(seed: int, key: Key) -> np.random.Generator:
    """All random numbers of what ``key`` names, where they come from NumPy alone."""
    return np.random.default_rng([seed, _PICTURE, key.epoch, key.position])


def seed_everything(*key: int) -> None:
    """Seeds Python, NumPy and torch, on the CPU and on GPUs in use, from a key."""
    first, second = (int(word) for word in np.random.SeedSequence(key).generate_state(2))
    random.seed(first)
    np.random.seed(second)
    # torch.manual_seed formats a stack trace for every device type that is not in use: 0.3 ms, once per picture.
    torch.default_generator.manual_seed(first << 32 | second)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(first << 32 | second)
