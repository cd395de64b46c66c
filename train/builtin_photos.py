"""Photographs that scikit-image, scikit-learn and matplotlib bring in their wheels, so nothing is downloaded.

Held out are astronaut, chelsea (a cat) and flower. The others are for training: photographs count twice, grey ones and
textures once, pictures from microscopes and telescopes half. The two motorcycles are a stereo pair and stay together.

china and flower are by their authors under CC BY 2.0; their names are in scikit-learn's datasets/images/README.txt.
"""

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skipvit.transforms import Pixels, to_rgb
from train.photographs import NoisyData, Pair
from train.pictures import DataError, decode

URI = "builtin:photos"

_SKIMAGE, _SKLEARN, _MATPLOTLIB = "skimage/data", "sklearn/datasets/images", "matplotlib/mpl-data/sample_data"
_TRAIN = {
    f"{_SKIMAGE}/coffee.png": 2.0,
    f"{_SKIMAGE}/rocket.jpg": 2.0,
    f"{_SKIMAGE}/motorcycle_left.png": 2.0,
    f"{_SKIMAGE}/motorcycle_right.png": 2.0,
    f"{_SKLEARN}/china.jpg": 2.0,
    f"{_MATPLOTLIB}/grace_hopper.jpg": 2.0,
    f"{_SKIMAGE}/brick.png": 1.0,
    f"{_SKIMAGE}/grass.png": 1.0,
    f"{_SKIMAGE}/gravel.png": 1.0,
    f"{_SKIMAGE}/camera.png": 1.0,
    f"{_SKIMAGE}/ihc.png": 0.5,
    f"{_SKIMAGE}/hubble_deep_field.jpg": 0.5,
    f"{_SKIMAGE}/retina.jpg": 0.5,
    f"{_SKIMAGE}/coins.png": 0.5,
    f"{_SKIMAGE}/moon.png": 0.5,
}
_HELD_OUT = {f"{_SKIMAGE}/astronaut.png": 1.0, f"{_SKIMAGE}/chelsea.png": 1.0, f"{_SKLEARN}/flower.jpg": 1.0}


@dataclass(frozen=True)
class InMemory:
    """Clean pictures (H, W, 3) uint8, with their names and weights."""

    pictures: tuple[Pixels, ...]
    names: tuple[str, ...]
    drawn: tuple[float, ...]

    @cached_property
    def weights(self) -> npt.NDArray[np.float64]:
        return np.array(self.drawn)

    def open(self, index: int) -> Pair:
        return Pair(self.pictures[index], None)


def builtin_photos() -> NoisyData:
    """15 photographs to train on and 3 held out.

    Raises:
        DataError: a package that brings some is not installed, or has left one out.
    """
    return NoisyData(URI, _opened(_TRAIN), _opened(_HELD_OUT), "astronaut, chelsea and flower")


def _opened(files: dict[str, float]) -> InMemory:
    names = tuple(Path(file).stem for file in files)
    return InMemory(tuple(_pixels(file) for file in files), names, tuple(files.values()))


def _pixels(file: str) -> Pixels:
    package, _, inside = file.partition("/")
    spec = find_spec(package)  # tells where it lies without loading it
    if spec is None or spec.origin is None:
        raise DataError(f"{URI} needs {package}, which brings {Path(file).name}; run: pip install 'skipvit[train]'")
    path = Path(spec.origin).parent / inside
    if not path.is_file():
        raise DataError(f"{path} is not there; {package} has left it out: install the release that pip chooses")
    return np.asarray(to_rgb(decode(path)))
