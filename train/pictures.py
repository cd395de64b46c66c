"""What every source of pictures offers: pictures by index, and their classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

Labels = np.ndarray[Any, np.dtype[np.int64]]


class DataError(Exception):
    """Data cannot be used; the message names the file or folder and says what to do."""


def decode(path: Path) -> Image.Image:
    """Decodes a file.

    Raises:
        DataError: it is no picture, or a damaged one.
    """
    try:
        with Image.open(path) as image:
            image.load()  # a truncated file opens, and fails here
            return image
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable picture ({error}); repair or remove it") from None


class Pictures(Protocol):
    """Pictures of any size and mode, each with one class."""

    @property
    def labels(self) -> Labels:
        """(n,) class indices."""
        ...

    def open(self, index: int) -> Image.Image:
        """Decodes one picture.

        Raises:
            DataError: it cannot be decoded.
        """
        ...


@dataclass(frozen=True)
class Dataset:
    """A training set, a held-out set, and the class names that both are indices into.

    ``held_out_name`` says in words what an evaluation figure was measured on.
    """

    uri: str
    classes: tuple[str, ...]
    train: Pictures
    held_out: Pictures
    held_out_name: str


def open_data(uri: str) -> Dataset:
    """Opens the data set that a URI names.

    Raises:
        DataError: the URI is not one of ours, or what it names cannot be used.
    """
    scheme, _, rest = uri.partition(":")
    if (scheme, rest) == ("builtin", "digits"):
        from train.digits import digits

        return digits()
    if (scheme, rest) == ("builtin", "drawn-digits"):
        from train.drawn_digits import drawn_digits

        return drawn_digits()
    if (scheme, rest) == ("builtin", "digits-and-drawings"):
        from train.drawn_digits import digits_and_drawings

        return digits_and_drawings()
    if scheme == "imagefolder" and rest:
        from train.image_folder import image_folder

        return image_folder(rest)
    raise DataError(
        f"{uri!r} names no data set; write builtin:digits, builtin:digits-and-drawings, builtin:drawn-digits "
        "or imagefolder:/path/to/folder"
    )
