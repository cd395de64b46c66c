"""Pictures of the user's: found in a folder and decoded. Nothing here imports torch."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from skipvit.transforms import Pixels

_PICTURE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class OriginError(Exception):
    """The model, its weights, labels or pictures cannot be had; the message says what to give instead."""


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder and those below it, in the order of their names, not yet opened.

    Raises:
        OriginError: there is none, or a folder cannot be read.
    """
    found = []
    for parent, folders, names in os.walk(folder, onerror=_unreadable):
        # what is hidden are tools' leftovers, such as macOS's ._photo.jpg
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    paths = sorted(path for path in found if path.suffix.lower() in _PICTURE_SUFFIXES and path.is_file())
    if not paths:
        raise OriginError(f"{folder} holds no picture ({', '.join(sorted(_PICTURE_SUFFIXES))}); give another folder")
    return paths


def _unreadable(error: OSError) -> None:
    raise OriginError(f"{error.filename} cannot be read ({error.strerror}); make it readable, or give another folder")


def open_picture(path: Path, preprocessing: Callable[[Image.Image], Pixels]) -> Pixels:
    """One picture as the model takes it, (H, W, 3) uint8; Pillow's limit on pixels bounds what is decoded.

    Args:
        preprocessing: a classifier's, or any other way from a decoded picture to pixels.

    Raises:
        OriginError: the file cannot be read as a picture.
    """
    try:
        with Image.open(path) as image:
            return preprocessing(image)
    except (OSError, ValueError, SyntaxError, TypeError, struct.error, Image.DecompressionBombError) as error:
        raise OriginError(f"{path} cannot be read as a picture ({error}); remove it or give other pictures") from None
