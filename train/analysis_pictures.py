"""The pictures that an analysis looks at: a folder of any shape, or the held-out part of a data set."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from skipvit.models.timm_guard import timm
from skipvit.picture_files import OriginError, open_picture, pictures_in
from skipvit.transforms import Pixels, Preprocessing, stack
from train.pictures import Labels, open_data

_IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Chosen:
    """Pictures in a fixed order of which any first few are a fair sample, decoded as they are asked for.

    Attributes:
        read: pixels (H, W, 3) of the picture at a place in the order.
        classes: class indices (n,) in the order, or None where they are not known.
        source: in words, where they are from.
        note: why classes are not known, or "".
    """

    read: Callable[[int], Pixels]
    count: int
    classes: Labels | None
    source: str
    note: str

    def pixels(self, start: int, stop: int) -> Tensor:
        """Pictures (B, H, W, 3) uint8 from one place in the order up to another.

        Raises:
            OriginError, DataError: a picture cannot be decoded.
        """
        return torch.from_numpy(stack([self.read(place) for place in range(start, min(stop, self.count))]))

    def labels(self, start: int, stop: int) -> Tensor | None:
        """Class indices (B,) of the same pictures, or None."""
        return None if self.classes is None else torch.from_numpy(self.classes[start:stop])


def choose_pictures(source: str, labels: tuple[str, ...], preprocessing: Preprocessing, limit: int) -> Chosen:
    """Opens a folder or a data set's held-out part, and picks up to ``limit`` of its pictures, evenly over classes.

    Args:
        labels: what the model calls its classes; where sub-folders, or the data set, agree with it, classes are known.

    Raises:
        OriginError, DataError: there is no such folder or data set, or it holds no picture.
    """
    if source.startswith(("builtin:", "imagefolder:")):
        data = open_data(source)
        held_out, order = data.held_out, _spread(len(data.held_out.labels), limit)
        known = data.classes == labels
        note = "" if known else f"{source} and the model name their classes differently"
        classes = held_out.labels[order] if known else None
        return Chosen(
            lambda i: preprocessing(held_out.open(int(order[i]))), len(order), classes, data.held_out_name, note
        )
    folder = Path(source).expanduser()
    if not os.path.isdir(folder):
        raise OriginError(f"there is no folder {source}; give a folder of pictures, or a data set like builtin:digits")
    paths = pictures_in(folder)
    order = _spread(len(paths), limit)
    every, note = _folder_classes(folder, paths, labels)
    return Chosen(
        lambda i: open_picture(paths[order[i]], preprocessing),
        len(order),
        None if every is None else every[order],
        f"{len(order)} pictures of {folder.resolve().name}",
        note,
    )


def _spread(n: int, limit: int) -> Labels:
    """Up to ``limit`` of n indices, evenly spaced and then shuffled, the same at each call."""
    chosen = np.unique(np.linspace(0, n - 1, min(n, limit)).round().astype(np.int64))
    return np.random.default_rng(0).permutation(chosen)


def _folder_classes(folder: Path, paths: Sequence[Path], labels: tuple[str, ...]) -> tuple[Labels | None, str]:
    """Class indices by sub-folder, or None and why not."""
    tops = [path.relative_to(folder).parts[0] if path.parent != folder else "" for path in paths]
    names = sorted(set(tops))
    if names == [""]:
        return None, "the pictures lie in no class folders"
    index = {label: i for i, label in enumerate(labels)}
    if len(labels) == _IMAGENET_CLASSES and not set(names) <= index.keys():
        index = {wnid: i for i, wnid in enumerate(timm.data.ImageNetInfo().label_names())}
    strangers = [name for name in names if name not in index]
    if strangers:
        what = f"folder {strangers[0]} is no class of the model" if strangers[0] else "some lie in no class folder"
        return None, what
    return np.array([index[top] for top in tops], dtype=np.int64), ""
