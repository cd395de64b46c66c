"""What every source of pictures to denoise offers: clean ones by index, and for real noise the noisy ones with them."""

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from skipvit.transforms import Pixels, to_rgb
from train.noise import Levels
from train.pictures import DataError, decode


class Pair(NamedTuple):
    """One picture (H, W, 3) uint8; ``noisy`` has the same shape, or is None where noise is yet to be added."""

    clean: Pixels
    noisy: Pixels | None


class Photographs(Protocol):
    """Pictures of any size."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of each picture, all different: without folder and extension where that will do."""
        ...

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """(n,) how often each is drawn, relative to the others."""
        ...

    def open(self, index: int) -> Pair:
        """Decodes one picture.

        Raises:
            DataError: it cannot be decoded, or the two of a pair do not go together.
        """
        ...


@dataclass(frozen=True)
class NoisyData:
    """A training set and a held-out set with no picture in common.

    ``held_out_name`` says in words what an evaluation figure was measured on. ``sigma`` is the Gaussian noise that the
    URI asks for; ``paired`` says that pictures have noise of their own.
    """

    uri: str
    train: Photographs
    held_out: Photographs
    held_out_name: str
    paired: bool = False
    sigma: Levels | None = None


@dataclass(frozen=True)
class PictureFiles:
    """Pictures on disk, decoded when they are asked for; ``noisy`` is empty, or has a partner for each."""

    clean: tuple[Path, ...]
    noisy: tuple[Path, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        alike = Counter(path.stem for path in self.clean)
        base = os.path.commonpath([path.parent for path in self.clean])
        return tuple(
            path.stem if alike[path.stem] == 1 else "_".join(path.relative_to(base).parts) for path in self.clean
        )

    @cached_property
    def weights(self) -> npt.NDArray[np.float64]:
        return np.ones(len(self.clean))

    def open(self, index: int) -> Pair:
        clean = np.asarray(to_rgb(decode(self.clean[index])))
        if not self.noisy:
            return Pair(clean, None)
        noisy = np.asarray(to_rgb(decode(self.noisy[index])))
        if clean.shape != noisy.shape:
            raise DataError(
                f"{self.noisy[index]} is {_size(noisy)} and {self.clean[index]} is {_size(clean)}; "
                "the two must show the same at the same size"
            )
        return Pair(clean, noisy)


@dataclass
class Kept:
    """Photographs that are decoded once, as long as ``budget`` bytes are not used up; the rest each time."""

    photographs: Photographs
    budget: int
    held: dict[int, Pair] = field(default_factory=dict)

    def open(self, index: int) -> Pair:
        if (kept := self.held.get(index)) is not None:
            return kept
        pair = self.photographs.open(index)
        size = sum(pixels.nbytes for pixels in pair if pixels is not None)
        if size <= self.budget:
            self.budget -= size
            self.held[index] = pair
        return pair


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


def open_photographs(uri: str) -> NoisyData:
    """Opens the data set that a URI names.

    Raises:
        DataError: the URI is not one of ours, or what it names cannot be used.
    """
    scheme, _, rest = uri.partition(":")
    if (scheme, rest) == ("builtin", "photos"):
        from train.builtin_photos import builtin_photos

        return builtin_photos()
    if scheme == "gaussian" and rest:
        from train.clean_folder import clean_folder

        return clean_folder(rest)
    if scheme == "pairs" and rest:
        from train.paired_folder import paired_folder

        return paired_folder(rest)
    if scheme == "sidd" and rest:
        from train.sidd import sidd

        return sidd(rest)
    raise DataError(
        f"{uri!r} names no pictures to denoise; write builtin:photos, gaussian:/folder?sigma=25, pairs:/folder "
        "or sidd:/folder"
    )
