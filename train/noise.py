"""Noise that is added to clean pictures: Gaussian, Poisson-Gaussian, and what JPEG leaves behind.

Pictures are (H, W, 3) float32 in 0..1, and are not clipped after noise was added. Standard deviations are in units of
1/255, as in the literature. Everything random comes from the generator that is passed in.

Levels are written as text, in recipes and in URIs: ``25`` is one level, ``15,25,50`` are some with equal chances,
``5-50`` is any between the two. A model that is trained on several is blind: nobody tells it the level.
"""

import io
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

Picture = npt.NDArray[np.float32]

_NUMBER = r"\d+(?:\.\d+)?"


@dataclass(frozen=True)
class Levels:
    """One level, some, or with ``between`` all from the first to the second."""

    values: tuple[float, ...]
    between: bool = False

    def draw(self, rng: np.random.Generator) -> float:
        if self.between:
            return float(rng.uniform(self.values[0], self.values[1]))
        return self.values[int(rng.integers(len(self.values)))] if len(self.values) > 1 else self.values[0]

    def draw_evenly_in_logarithm(self, rng: np.random.Generator) -> float:
        """As ``draw``, but a range has as many levels around 10 as around 1000."""
        if self.between:
            low, high = (math.log(value) for value in self.values)
            return math.exp(rng.uniform(low, high))
        return self.draw(rng)


def read_levels(text: str, least: float, most: float) -> Levels:
    """Levels in the notation above.

    Raises:
        ValueError: the text is not in it, or a level is not in ``least`` .. ``most``.
    """
    if match := re.fullmatch(rf"({_NUMBER})-({_NUMBER})", text):
        levels = Levels((float(match[1]), float(match[2])), between=True)
    elif re.fullmatch(rf"{_NUMBER}(?:,{_NUMBER})*", text):
        levels = Levels(tuple(float(number) for number in text.split(",")))
    else:
        raise ValueError(f"{text!r} is none of 25, 15,25,50 and 5-50, which are one level, some, and a range")
    if not all(least <= value <= most for value in levels.values):
        raise ValueError(f"{text!r}: levels must be from {least:g} to {most:g}")
    if levels.between and levels.values[0] >= levels.values[1]:
        raise ValueError(f"{text!r} is a range whose first number is not the smaller")
    return levels


def saved(picture: Picture) -> Picture:
    """What is left of a picture in a file of 8 bits: clipped, and rounded half to even."""
    return np.rint(np.clip(picture, 0, 1) * np.float32(255)) / np.float32(255)


class Noise(Protocol):
    """Something that spoils a picture."""

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Picture: ...


@dataclass(frozen=True)
class Gaussian:
    """y = x + sigma n / 255, n standard normal and independent for each pixel and channel."""

    sigma: Levels

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Picture:
        return clean + np.float32(self.sigma.draw(rng) / 255) * rng.standard_normal(clean.shape, dtype=np.float32)


@dataclass(frozen=True)
class PoissonGaussian:
    """y = P(K x) / K + sigma n / 255: photons are counted, K at white, and read out with Gaussian noise.

    The sensor noise of Foi et al., IEEE TIP 17 (2008), eq. 1-3, whose variance a x + b has a = 1 / K.
    """

    photons: Levels
    sigma: Levels

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Picture:
        k = self.photons.draw_evenly_in_logarithm(rng)
        counted = (rng.poisson(clean * k) / k).astype(np.float32)
        return Gaussian(self.sigma)(counted, rng)


@dataclass(frozen=True)
class Jpeg:
    """The picture after compression at a quality of 1 to 100."""

    quality: Levels

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Picture:
        file = io.BytesIO()
        Image.fromarray(np.rint(clean * 255).astype(np.uint8)).save(file, "JPEG", quality=round(self.quality.draw(rng)))
        with Image.open(file) as image:
            return np.asarray(image, dtype=np.float32) / np.float32(255)


@dataclass(frozen=True)
class SometimesSaved:
    """Noise of which a ``share`` is clipped and rounded, as in the files that a trained model will be sent.

    Clipping lifts what is black and lowers what is white. A model that never saw it leaves both grey.
    """

    noise: Noise
    share: float

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Picture:
        noisy = self.noise(clean, rng)
        return saved(noisy) if rng.random() < self.share else noisy


@dataclass(frozen=True)
class OneOf:
    """Each picture gets one of several kinds, with equal chances."""

    kinds: Sequence[Noise]

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Picture:
        return self.kinds[int(rng.integers(len(self.kinds)))](clean, rng)


def evaluation_noise(clean: Picture, sigma: float, name: str) -> Picture:
    """Gaussian noise of ``sigma`` / 255 that is the same in every evaluation of the picture called ``name``.

    For two sigmas it is the same noise, scaled. The result is not clipped.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return clean + np.float32(sigma / 255) * rng.standard_normal(clean.shape, dtype=np.float32)
