"""Where the pixels of a picture lie in memory, for code that reads them without a copy."""

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Picture = Image.Image | Pixels

# Pillow keeps a picture of more than 16 MB in several pieces of memory. A band of it is copied into one.
BAND_BYTES = 4_000_000


class NoSingleMemory(Exception):
    """A picture's pixels are not to be had in one piece, not even a few of them."""


class _SeveralPieces(Exception):
    """A picture's rows do not follow one another in memory."""


def bands(picture: Picture, window: tuple[int, int, int, int], axis: int) -> Iterator[tuple[slice, int, int]]:
    """The window's bands along an axis: which rows or columns, where their pixels are, and bytes from row to row.

    A pixel takes four bytes. An address is good until the next band is asked for.

    Args:
        picture: of mode RGB, or padded pixels.
        window: left, top, right, bottom.
        axis: 0 for bands of columns, 1 for bands of rows.

    Raises:
        NoSingleMemory: not even a band is in one piece.
    """
    left, top, right, bottom = window
    if isinstance(picture, np.ndarray):
        pitch = picture.strides[0]
        yield slice(None), picture.ctypes.data + top * pitch + 4 * left, pitch
        return
    try:
        held = _Memory(picture)
    except _SeveralPieces:
        across = (bottom - top, right - left)[axis]
        each = max(1, BAND_BYTES // (4 * across))
        length = window[axis + 2] - window[axis]
        for start in range(0, length, each):
            end = min(start + each, length)
            part = (left + start, top, left + end, bottom) if axis == 0 else (left, top + start, right, top + end)
            try:
                band = _Memory(picture.crop(part))
            except _SeveralPieces:  # rows that Pillow was told to align
                raise NoSingleMemory from None
            yield slice(start, end), band.address, band.pitch
    else:
        yield slice(None), held.address + top * held.pitch + 4 * left, held.pitch


class _ArrowArray(ctypes.Structure):
    """Apache Arrow's C data interface: a picture is a list of lists of four bytes."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    *((name, ctypes.c_void_p) for name in ("dictionary", "release", "private_data")),
]


class _Memory:
    """Where a picture's pixels are, four bytes each: valid as long as this object is.

    Raises:
        _SeveralPieces: the picture is in several pieces.
        NoSingleMemory: it is laid out in no way that is known here.
    """

    def __init__(self, image: Image.Image) -> None:
        image.load()
        # The capsules hold the picture's memory until they are gone.
        try:
            self._capsules: tuple[Any, Any] = image.__arrow_c_array__()
        except ValueError:
            raise _SeveralPieces from None
        pixels = ctypes.cast(_capsule_pointer(self._capsules[1], b"arrow_array"), ctypes.POINTER(_ArrowArray)).contents
        if pixels.length != image.width * image.height or pixels.n_children != 1:
            raise NoSingleMemory
        self.address = int(pixels.children[0].contents.buffers[1])
        self.pitch = 4 * image.width


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_capsule_pointer.restype = ctypes.c_void_p
