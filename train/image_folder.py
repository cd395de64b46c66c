"""Pictures in folders: ``train/<class>/*`` and ``val/<class>/*``, or ILSVRC as it is distributed.

ILSVRC's raw layout has its validation pictures in one flat folder, and their classes in a file beside it:

    ILSVRC/Data/CLS-LOC/train/<wnid>/*.JPEG    ILSVRC/Data/CLS-LOC/val/*.JPEG
    LOC_val_solution.csv                       Kaggle's: file name and wnid
    ILSVRC2012_validation_ground_truth.txt     the devkit's: one number a line, in the order of file names
    LOC_synset_mapping.txt                     optional: wnid and words

The devkit's numbers do not follow the sorted wnids. They mean something only through its own table, map_clsloc.txt or
meta.mat, and without one of them they are refused. Classes are numbered by sorted folder name throughout.
"""

import csv
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from train.pictures import DataError, Dataset, Labels, decode

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
# where the devkit's files may lie, seen from the folder that the user named
_DEVKITS = (
    "",
    "devkit/data",
    "ILSVRC2012_devkit_t12/data",
    "ILSVRC/devkit/data",
    "../devkit/data",
    "../../devkit/data",
)


@dataclass(frozen=True)
class Files:
    """Pictures on disk, decoded when they are asked for."""

    paths: tuple[Path, ...]
    labels: Labels

    def open(self, index: int) -> Image.Image:
        return decode(self.paths[index])


def image_folder(root: str | Path) -> Dataset:
    """Opens a folder in either layout.

    Raises:
        DataError: the folder is missing, has another layout, or its classes do not agree.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise DataError(f"imagefolder:{root}: there is no such folder")
    pictures = _pictures_root(base)
    wnids = tuple(_folders(pictures / "train"))
    if not wnids:
        raise DataError(f"{pictures / 'train'} has no class folders; put pictures into train/<class>/")
    train = _by_class(pictures / "train", wnids)
    val = pictures / "val"
    if not val.is_dir():
        raise DataError(f"{val} is not there; held-out pictures belong into val/<class>/, or flat as ILSVRC has them")
    if _folders(val):
        held_out = _by_class(val, wnids, whole=False)
    else:
        held_out = _flat(val, wnids, _flat_classes(base, pictures))
    names = _words(base, wnids)
    return Dataset(f"imagefolder:{root}", names, train, held_out, f"{val}, {len(held_out.paths)} pictures")


def _pictures_root(base: Path) -> Path:
    for inner in ("", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC"):
        if (base / inner / "train").is_dir():
            return base / inner
    raise DataError(f"{base} has neither train/<class>/ nor ILSVRC/Data/CLS-LOC/train/<wnid>/ in it")


def list_pictures(folder: Path) -> list[Path]:
    """Every picture below a folder, sorted by path."""
    # os.walk tells files from folders without asking the disk about each of ImageNet's 1.3 million
    walked = ((Path(parent), names) for parent, _, names in os.walk(folder))
    return sorted(parent / name for parent, names in walked for name in names if _is_picture(name))


def _folders(folder: Path) -> list[str]:
    """Names of the folders in it, sorted; hidden ones are tools' leftovers, not classes."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith(".")


def _by_class(split: Path, wnids: tuple[str, ...], whole: bool = True) -> Files:
    """``whole``: every class must have a picture, as training needs; evaluation may hold fewer classes."""
    found = _folders(split)
    if strangers := sorted(set(found) - set(wnids)):
        raise DataError(f"{split / strangers[0]} is a class that train/ does not have; remove it, or add it to train/")
    paths, labels = [], []
    for name in found:
        listed = list_pictures(split / name)
        if not listed and whole:
            raise DataError(f"{split / name} holds no picture ({', '.join(sorted(EXTENSIONS))}); fill or remove it")
        paths += listed
        labels += [wnids.index(name)] * len(listed)
    if not paths:
        raise DataError(f"{split} holds no picture ({', '.join(sorted(EXTENSIONS))})")
    return Files(tuple(paths), np.array(labels, dtype=np.int64))


def _flat(val: Path, wnids: tuple[str, ...], classes: dict[str, str]) -> Files:
    index = {wnid: i for i, wnid in enumerate(wnids)}
    paths = list_pictures(val)
    if not paths:
        raise DataError(f"{val} holds no picture ({', '.join(sorted(EXTENSIONS))})")
    for path in paths:
        if path.stem not in classes:
            raise DataError(f"{path} has no class in the file that lists them; that file is for other pictures")
        if classes[path.stem] not in index:
            raise DataError(f"{path} is of class {classes[path.stem]}, which train/ does not have")
    return Files(tuple(paths), np.array([index[classes[p.stem]] for p in paths], dtype=np.int64))


def _flat_classes(base: Path, pictures: Path) -> dict[str, str]:
    """Class of each picture of a flat val folder, by the picture's stem."""
    if solution := _beside(base, pictures, "LOC_val_solution.csv"):
        with solution.open(newline="", encoding="utf-8") as file:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    truth = _beside(base, pictures, _GROUND_TRUTH)
    if truth is None:
        raise DataError(
            f"{pictures / 'val'} is flat, and neither LOC_val_solution.csv nor {_GROUND_TRUTH} is near {base}; "
            "copy one there, or sort the pictures into val/<class>/"
        )
    numbers = _numbers(truth)
    wnid_of = _devkit_table(base, pictures, truth)
    classes = {}
    for path in list_pictures(pictures / "val"):
        digits = re.search(r"(\d+)$", path.stem)
        line = int(digits[1]) if digits else 0
        if not 1 <= line <= len(numbers):
            raise DataError(f"{path}: {truth} has {len(numbers)} lines, and none is for this file name")
        classes[path.stem] = wnid_of.get(numbers[line - 1], f"number {numbers[line - 1]}")
    return classes


def _numbers(truth: Path) -> list[int]:
    try:
        return [int(line) for line in truth.read_text().split()]
    except ValueError as error:
        raise DataError(f"{truth} must hold one number a line ({error})") from None


def _devkit_table(base: Path, pictures: Path, truth: Path) -> dict[int, str]:
    if table := _beside(base, pictures, "map_clsloc.txt"):
        rows = (line.split() for line in table.read_text("utf-8").splitlines() if line.strip())
        return {int(row[1]): row[0] for row in rows}
    if table := _beside(base, pictures, "meta.mat"):
        from scipy.io import loadmat

        synsets = loadmat(table, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in np.atleast_1d(synsets)}
    raise DataError(
        f"{truth} gives the devkit's own class numbers, which do not follow the sorted folders; "
        f"copy the devkit's map_clsloc.txt or meta.mat beside it, or use LOC_val_solution.csv"
    )


def _beside(base: Path, pictures: Path, name: str) -> Path | None:
    places: Iterable[Path] = [base / kit / name for kit in _DEVKITS] + [base.parent / name, pictures / name]
    return next((place for place in places if place.is_file()), None)


def _words(base: Path, wnids: tuple[str, ...]) -> tuple[str, ...]:
    """Class names for people, where the synset mapping is there and covers every class; else the folders' names."""
    mapping = _beside(base, base, "LOC_synset_mapping.txt")
    if mapping is None:
        return wnids
    rows = (line.partition(" ") for line in mapping.read_text("utf-8").splitlines())
    words = {wnid: rest.strip() for wnid, _, rest in rows}
    return tuple(words[wnid] for wnid in wnids) if all(words.get(wnid) for wnid in wnids) else wnids
