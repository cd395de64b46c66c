"""The pictures that an exported file is compared on: the user's, the checkpoint's, or generated ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from skipvit.picture_files import open_picture, pictures_in
from skipvit.transforms import Pixels, Preprocessing, stack

# What the names of pictures begin with that an entry keeps for engines to be compared on, of the graph's own size.
COMPARED = "compared-"
_SYNTHETIC_IMAGES = 16
_MAX_PICTURES = 256


@dataclass(frozen=True)
class Pictures:
    """What the two sides are compared on: (B, H, W, 3) uint8, and in words where they are from."""

    images: Pixels
    source: str
    # Generated pictures say nothing of a class, so float16 may round a tie either way; real ones may not.
    real: bool


class Samples(Protocol):
    """Pictures that a checkpoint brings, of one size, and in words where they are from."""

    @property
    def images(self) -> Pixels: ...

    @property
    def source(self) -> str: ...


def pictures_for(preprocessing: Preprocessing, samples: Samples | None, folder: Path | None) -> Pictures:
    """Up to 256 pictures of ``folder`` where one is given, else the checkpoint's samples, else generated ones.

    Raises:
        OriginError: the folder holds no picture, or one cannot be read.
    """
    if folder is not None:
        paths = pictures_in(folder)[:_MAX_PICTURES]
        images = stack([open_picture(path, preprocessing) for path in paths])
        return Pictures(images, f"{len(paths)} pictures of {folder.name}", real=True)
    if samples is not None:
        return Pictures(samples.images, samples.source, real=True)
    return synthetic_pictures(preprocessing)


def synthetic_pictures(preprocessing: Preprocessing) -> Pictures:
    """Smooth random pictures, for a model that comes with none: fixed seed, all of the value range."""
    rng = np.random.default_rng(0)
    pixels = []
    for _ in range(_SYNTHETIC_IMAGES):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((preprocessing.width, preprocessing.height), Image.Resampling.BICUBIC)
        noise = rng.integers(-20, 21, (preprocessing.height, preprocessing.width, 3))
        pixels.append(np.clip(np.asarray(smooth, dtype=np.int64) + noise, 0, 255).astype(np.uint8))
    return Pictures(stack(pixels), f"{_SYNTHETIC_IMAGES} generated pictures", real=False)
