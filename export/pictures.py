"""The pictures that a file is compared on, and int8 calibrated: the user's, the checkpoint's, or generated ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from skipvit.picture_files import OriginError, open_picture, pictures_in
from skipvit.transforms import Pixels, Preprocessing, stack

# What the names of pictures begin with that an entry keeps for engines to be compared on, of the graph's own size.
COMPARED = "compared-"
_SYNTHETIC_IMAGES = 16
_MAX_PICTURES = 256
_MAX_CALIBRATION, _LEAST_CALIBRATION = 128, 32
_LEAST_COMPARED = 32  # of fewer, no share says anything of the rest
_NEEDED = (
    "int8 takes the ranges of activations from pictures such as the model will see, "
    f"{_LEAST_CALIBRATION} at least and better 100"
)


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
        return _pictures_of(folder, preprocessing)
    if samples is not None:
        return Pictures(samples.images, samples.source, real=True)
    return synthetic_pictures(preprocessing)


def pictures_for_int8(
    preprocessing: Preprocessing, samples: Samples | None, folder: Path | None, calibration: Path | None
) -> tuple[Pixels, Pictures]:
    """Up to 128 pictures to calibrate on, and others to compare on; of one set alone, each gets half.

    Raises:
        OriginError: there are none or too few, or one cannot be read.
    """
    sets = []
    if folder is not None or samples is not None:
        sets.append(pictures_for(preprocessing, samples, folder))
    if calibration is not None and (folder is None or calibration.resolve() != folder.resolve()):
        sets.append(_pictures_of(calibration, preprocessing))
    if not sets:
        raise OriginError(f"{_NEEDED}, and there are none; give a folder of them with --calibration")
    compared, others = sets if len(sets) == 2 else _halves(sets[0])
    others = _without(others, compared.images)
    chosen = _spread(len(others.images), _MAX_CALIBRATION)
    if len(chosen) < _LEAST_CALIBRATION:
        raise OriginError(
            f"{_NEEDED}, and there are {len(chosen)} besides those to compare on; give a folder of more with "
            "--calibration"
        )
    if len(compared.images) < _LEAST_COMPARED:
        raise OriginError(
            f"int8 is judged by {_LEAST_COMPARED} pictures at least, and there are {len(compared.images)} to compare "
            "on; give a folder of more with --images"
        )
    source = f"{compared.source}; {len(chosen)} of {others.source} for calibration"
    return others.images[chosen], Pictures(compared.images, source, real=True)


def _halves(pictures: Pictures) -> tuple[Pictures, Pictures]:
    first, second = (pictures.images[np.arange(start, len(pictures.images), 2)] for start in (0, 1))
    return Pictures(first, f"half of {pictures.source}", real=True), Pictures(second, "the other half", real=True)


def _without(pictures: Pictures, others: Pixels) -> Pictures:
    """Those that are not among ``others``: one folder may lie in another, or hold the same picture once more."""
    known = {image.tobytes() for image in others}
    new = [place for place, image in enumerate(pictures.images) if image.tobytes() not in known]
    return Pictures(pictures.images[new], pictures.source, pictures.real)


def _pictures_of(folder: Path, preprocessing: Preprocessing) -> Pictures:
    """Pictures from all over a folder, which may be sorted by class."""
    paths = pictures_in(folder)
    chosen = [paths[index] for index in _spread(len(paths), _MAX_PICTURES)]
    images = stack([open_picture(path, preprocessing) for path in chosen])
    return Pictures(images, f"{len(chosen)} pictures of {folder.name}", real=True)


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Indices of at most so many of ``count``, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


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
