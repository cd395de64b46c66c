"""DAVIS 2017 as it is distributed: a folder of JPEG frames for each sequence, and lists of sequences.

    JPEGImages/480p/<sequence>/00000.jpg      ImageSets/2017/{train,val,test-dev}.txt

FastDVDnet's and PaCNet's protocol trains on the 90 sequences of train and val, and measures on the 30 of test-dev,
which DAVIS publishes without labels; denoising needs none. A copy without test-dev holds out val instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skipvit.transforms import Pixels, to_rgb
from train.clip_data import VideoData
from train.image_folder import EXTENSIONS
from train.pictures import DataError, decode

_FRAMES, _LISTS = "JPEGImages/480p", "ImageSets/2017"


@dataclass(frozen=True)
class FrameFolders:
    """Sequences on disk, one folder of frames each, in the order of the frames' names."""

    folders: tuple[Path, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(folder.name for folder in self.folders)

    @cached_property
    def files(self) -> tuple[tuple[Path, ...], ...]:
        return tuple(_frames_of(folder) for folder in self.folders)

    @cached_property
    def weights(self) -> npt.NDArray[np.float64]:
        """A sequence is drawn as often as it has frames."""
        return np.array([len(files) for files in self.files], dtype=np.float64)

    def cut(self, index: int, frames: int, size: int, rng: np.random.Generator) -> Pixels:
        files = self.files[index]
        if len(files) < frames:
            raise DataError(f"{self.folders[index]} has {len(files)} frames, and clips have {frames}; leave it out")
        start = int(rng.integers(len(files) - frames + 1))
        pictures = [_pixels(path) for path in files[start : start + frames]]
        height, width = pictures[0].shape[:2]
        if min(height, width) < size or any(picture.shape != pictures[0].shape for picture in pictures):
            raise DataError(
                f"{self.folders[index]} has frames of {width} x {height}, and clips of {size} are to be cut of them; "
                "they must have one size, no smaller than that"
            )
        top, left = (int(rng.integers(side - size + 1)) for side in (height, width))
        return np.stack([picture[top : top + size, left : left + size] for picture in pictures])

    def frames(self, index: int) -> Iterator[Pixels]:
        return map(_pixels, self.files[index])


def davis(rest: str) -> VideoData:
    """Opens a copy of DAVIS in the folder ``rest``.

    Raises:
        DataError: it is not there, or a list names what is not there.
    """
    base = Path(rest).expanduser()
    lists = {name: _listed(base, name) for name in ("train", "val", "test-dev")}
    if not lists["train"] or not (lists["val"] or lists["test-dev"]):
        raise DataError(
            f"{base} is no copy of DAVIS 2017: {base / _LISTS} needs train.txt, and val.txt or test-dev.txt"
        )
    held_out = lists["test-dev"] or lists["val"]
    train = lists["train"] + (lists["val"] if lists["test-dev"] else ())
    which = "test-dev" if lists["test-dev"] else "val"
    if twice := {folder.name for folder in train} & {folder.name for folder in held_out}:
        raise DataError(f"{base / _LISTS} has {', '.join(sorted(twice))} both to train on and to measure on; mend it")
    name = f"DAVIS 2017 {which} 480p, {len(held_out)} sequences"
    return VideoData(f"davis:{rest}", FrameFolders(train), FrameFolders(held_out), name)


def _listed(base: Path, name: str) -> tuple[Path, ...]:
    path = base / _LISTS / f"{name}.txt"
    try:
        lines = path.read_text("utf-8").split()
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    folders = tuple(base / _FRAMES / line for line in lines)
    for folder in folders:
        if not folder.is_dir() or folder.parent != base / _FRAMES:
            raise DataError(
                f"{path} names {folder.name}, and there is no folder {folder}; unpack the 480p frames there"
            )
    return folders


def _frames_of(folder: Path) -> tuple[Path, ...]:
    files = tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS))
    if not files:
        raise DataError(f"{folder} has no frame in it; unpack the sequence again")
    return files


def _pixels(path: Path) -> Pixels:
    return np.asarray(to_rgb(decode(path)))
