"""Pictures to convert a model with: some to learn from, others to measure on, none of them in need of a label.

A folder of pictures, of any depth: every fifth by name is held out. A data set of ours (builtin:..., imagefolder:...)
brings its own held-out part, and classes to measure accuracy with where the model has the same ones.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from skipvit.picture_files import pictures_in
from skipvit.transforms import Preprocessing
from train.image_folder import Files
from train.pictures import DataError, Labels, Pictures, open_data

_EVERY = 5  # of a folder, the share that is held out
_LEAST = 8
_MOST_BYTES = 4 << 30


@dataclass(frozen=True)
class Material:
    """Pictures in memory, as the model's preprocessing leaves them.

    Attributes:
        train: (n, 3, H, W) uint8.
        held_out: (m, 3, H, W) uint8, never learned from.
        labels: classes (m,) of the held-out pictures, or None where the model's classes are not known of them.
        name: what the held-out pictures are, in words.
        note: why there are no labels, in words; "" where there are.
    """

    train: Tensor
    held_out: Tensor
    labels: Labels | None
    name: str
    note: str


def read_material(source: str, preprocessing: Preprocessing, classes: tuple[str, ...], limit: int) -> Material:
    """Decodes up to ``limit`` pictures to learn from and a quarter as many to measure on, evenly spaced.

    Args:
        classes: what the model calls its classes.

    Raises:
        DataError, OriginError: there are no such pictures, too few, too many, or one that cannot be decoded.
    """
    train, held_out, labels, name, note = _open(source, classes)
    chosen, measured = _spread(len(train.labels), limit), _spread(len(held_out.labels), max(_LEAST, limit // 4))
    if len(chosen) < _LEAST or len(measured) < 2:
        raise DataError(
            f"{source} gives {len(chosen)} pictures to learn from and {len(measured)} to measure on; "
            f"at least {_LEAST} and 2 are needed: give more pictures, or a larger --limit"
        )
    needed = (len(chosen) + len(measured)) * preprocessing.height * preprocessing.width * 3
    if needed > _MOST_BYTES:
        raise DataError(
            f"{len(chosen)} pictures of {preprocessing.height} x {preprocessing.width} take {needed >> 20} MiB "
            f"of memory, more than {_MOST_BYTES >> 20}; give a smaller --limit"
        )
    with tqdm(total=len(chosen) + len(measured), desc="reading pictures", leave=False, disable=None) as bar:
        pixels = [
            _decode(part, indices, preprocessing, bar) for part, indices in ((train, chosen), (held_out, measured))
        ]
    if len(measured) < len(held_out.labels):
        name = f"{len(measured)} of {name}"
    return Material(pixels[0], pixels[1], None if labels is None else labels[measured], name, note)


def _open(source: str, classes: tuple[str, ...]) -> tuple[Pictures, Pictures, Labels | None, str, str]:
    if source.startswith(("builtin:", "imagefolder:")):
        data = open_data(source)
        known = data.classes == classes
        note = "" if known else f"{source} and the model name their classes differently: accuracy is not measured"
        return data.train, data.held_out, data.held_out.labels if known else None, data.held_out_name, note
    folder = Path(source).expanduser()
    if not os.path.isdir(folder):
        raise DataError(f"there is no folder {source}; give a folder of pictures, or a data set such as builtin:digits")
    paths = pictures_in(folder)
    held_out, train = paths[_EVERY - 1 :: _EVERY], [p for i, p in enumerate(paths) if i % _EVERY != _EVERY - 1]
    name = f"{len(held_out)} pictures of {folder.resolve().name}, every {_EVERY}th by name"
    return _files(train), _files(held_out), None, name, "the pictures bring no classes: accuracy is not measured"


def _files(paths: Sequence[Path]) -> Files:
    return Files(tuple(paths), np.full(len(paths), -1, dtype=np.int64))


def _spread(n: int, most: int) -> Labels:
    """Up to ``most`` of n indices, evenly spaced."""
    return np.unique(np.linspace(0, max(0, n - 1), min(n, most)).round().astype(np.int64))


def _decode(pictures: Pictures, indices: Labels, preprocessing: Preprocessing, bar: Any) -> Tensor:
    pixels = torch.empty(len(indices), 3, preprocessing.height, preprocessing.width, dtype=torch.uint8)
    for row, index in zip(pixels, indices.tolist(), strict=True):
        row.copy_(torch.from_numpy(preprocessing(pictures.open(index)).copy()).permute(2, 0, 1))  # HWC -> CHW
        bar.update()
    return pixels
