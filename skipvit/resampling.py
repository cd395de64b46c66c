"""Pillow's resizing of RGB pictures, faster: the same bytes, by a compiled library where there is one.

Resizing is the larger half of what a server does to a JPEG of half a megapixel before the model sees it. The library
(native/resample.c) is compiled when skipvit is installed. Before its first use it resizes a few pictures beside the
installed Pillow, and is only used if it gives the same bytes; without it, Pillow does the work.
``SKIPVIT_RESAMPLING=pillow`` leaves the work to Pillow in any case.
"""

import ctypes
import functools
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL import __version__ as pillow_version

from skipvit.native.build import LIBRARY, is_current
from skipvit.pixel_memory import NoSingleMemory, Picture, Pixels, bands

Box = tuple[float, float, float, float]
Interpolation = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]

_PILLOWS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_FILTERS: tuple[Interpolation, ...] = ("box", "bilinear", "bicubic", "lanczos")  # as resample.c counts them
_INSTRUCTIONS = ("plain C", "AVX2", "AVX-512")
# Beyond these Pillow is asked: a picture of a pixel's height may want gigabytes of weights, and Pillow 12.2 and 12.3
# took the axes of pictures a hundred times as high as wide in another order.
_MOST_WEIGHTS = 4_000_000
_MOST_TIMES_AS_HIGH = 100
_BRIEF_WEIGHTS = 10_000  # some ten nanoseconds each
_BRIEF_PRODUCTS = 1_000_000  # thirty microseconds, with AVX-512
# Most pictures that a server gets are of a few sizes. These are kept for 32 lengths at a time, at most 0.3 MB each.
_KEPT_LENGTHS = 32
_LONGEST_KEPT = 8192
# Results and boxes for which a compiler that fuses products and sums takes other pixels than one that rounds both.
_TIES: tuple[tuple[tuple[int, int], Box], ...] = (
    ((6, 10), (7.0, 3.0, 30.0, 16.0)),
    ((6, 10), (5.0, 1.0, 16.0, 18.0)),
)


def resize(image: Image.Image, size: tuple[int, int], interpolation: Interpolation, box: Box) -> Pixels:
    """Returns (height, width, 3) uint8: what ``image.resize(size, interpolation, box)`` shows, to the last bit.

    Args:
        image: of mode RGB.
        size: width and height of the result.
        interpolation: Pillow's filter of that name.
        box: the part of ``image`` that is kept: left, top, right, bottom in its pixels.
    """
    library = compiled()
    found = library.resize(image, size, interpolation, box) if isinstance(library, Compiled) else None
    return found if found is not None else _by_pillow(image, size, interpolation, box)


def resize_padded(pixels: Pixels, size: tuple[int, int], interpolation: Interpolation, box: Box) -> Pixels:
    """The same of pixels (height, width, 4) uint8 in one piece, of which the fourth byte is of no account."""
    library = compiled()
    found = library.resize_padded(pixels, size, interpolation, box) if isinstance(library, Compiled) else None
    return found if found is not None else _by_pillow(Image.fromarray(pixels[..., :3]), size, interpolation, box)


def description() -> str:
    """A sentence for an operator: what resizes pictures here, and if it is Pillow, why."""
    library = compiled()
    if isinstance(library, Compiled):
        instructions = _INSTRUCTIONS[library.instructions]
        return f"pictures are resized by skipvit's own code ({instructions}), as by Pillow {pillow_version}"
    return f"pictures are resized by Pillow {pillow_version}: {library}"


@functools.cache
def compiled() -> "Compiled | str":
    """The compiled library, checked against the installed Pillow, or why it is not used."""
    if os.environ.get("SKIPVIT_RESAMPLING", "").lower() == "pillow":
        return "SKIPVIT_RESAMPLING says so"
    if not hasattr(Image.Image, "__arrow_c_array__"):
        return "it does not show where its pixels are, as Pillow does since 11.2"
    if not LIBRARY.is_file():
        return "there was no C compiler when skipvit was installed"
    try:
        if not is_current(LIBRARY):
            return f"{LIBRARY.name} is not of the sources beside it; run: python3 -m skipvit.native.build"
        library, brief = _load(ctypes.CDLL), _load(ctypes.PyDLL)
    except (OSError, AttributeError) as error:
        return f"{LIBRARY.name} cannot be loaded ({error})"
    for rows_first in (_rows_first_since_13, _rows_first_before_13):
        found = Compiled(library, brief, library.skipvit_instructions(), rows_first)
        if _agrees_with_pillow(found):
            return found
    return "skipvit's own code gives other pixels than this Pillow"


@dataclass(frozen=True)
class Compiled:
    """The library, and how it is to be used here.

    Attributes:
        library: as ctypes has it, for calls that let go of the interpreter's lock.
        brief: the same for calls of some microseconds, which would wait longer to have the lock back.
        instructions: 0 for those of every CPU, 1 for AVX2, 2 for AVX-512.
        rows_first: of (width, height) of a picture and of the result, whether Pillow resizes rows before columns.
    """

    library: ctypes.CDLL
    brief: ctypes.CDLL
    instructions: int
    rows_first: Callable[[tuple[int, int], tuple[int, int]], bool]

    def resize(
        self, image: Image.Image, size: tuple[int, int], interpolation: Interpolation, box: Box
    ) -> Pixels | None:
        """As the function of that name; None where Pillow is to be asked."""
        return self._resize(image, image.size, size, interpolation, box) if image.mode == "RGB" else None

    def resize_padded(
        self, pixels: Pixels, size: tuple[int, int], interpolation: Interpolation, box: Box
    ) -> Pixels | None:
        """As the function of that name; None where Pillow is to be asked."""
        return self._resize(pixels, (pixels.shape[1], pixels.shape[0]), size, interpolation, box)

    def _resize(
        self, picture: Picture, of: tuple[int, int], size: tuple[int, int], interpolation: Interpolation, box: Box
    ) -> Pixels | None:
        """As above, of a picture whose width and height are ``of``."""
        if interpolation not in _FILTERS or of[1] > _MOST_TIMES_AS_HIGH * of[0]:
            return None
        which = _FILTERS.index(interpolation)
        across = self._weights(of[0], box[0], box[2], size[0], which)
        down = self._weights(of[1], box[1], box[3], size[1], which)
        if across is None or down is None:
            return None
        try:
            if self.rows_first(of, size):
                return self._rows_then_columns(picture, size, across, down)
            return self._columns_then_rows(picture, size, across, down)
        except NoSingleMemory:
            return None

    def _weights(self, inputs: int, start: float, end: float, outputs: int, which: int) -> "_Weights | None":
        make = _kept_weights if max(inputs, outputs) <= _LONGEST_KEPT else Compiled.new_weights
        return make(self, inputs, start, end, outputs, which)

    def new_weights(self, inputs: int, start: float, end: float, outputs: int, which: int) -> "_Weights | None":
        """The weights of an axis by one of the filters; None where there are too many."""
        taps = self.brief.skipvit_taps(start, end, outputs, which)
        if taps * outputs > _MOST_WEIGHTS:
            return None
        weights = _Weights(np.empty((outputs, 2), np.int32), np.empty((outputs, taps), np.int32))
        scratch = np.empty(taps)
        address = (weights.spans.ctypes.data, weights.values.ctypes.data, scratch.ctypes.data)
        library = self.brief if weights.values.size < _BRIEF_WEIGHTS else self.library
        library.skipvit_weights(inputs, start, end, outputs, which, *address)
        return weights

    def _rows_then_columns(
        self, picture: Picture, size: tuple[int, int], across: "_Weights", down: "_Weights"
    ) -> Pixels:
        width, height = size
        top, bottom = down.window
        rows = np.empty((bottom - top, width, 3), np.uint8)
        for band, address, pitch in bands(picture, (across.window[0], top, across.window[1], bottom), 1):
            self._rows(address, pitch, across, rows[band], 3)
        result = np.empty((height, width, 3), np.uint8)
        self._columns(rows.ctypes.data, rows.strides[0], down, result.reshape(height, -1))
        return result

    def _columns_then_rows(
        self, picture: Picture, size: tuple[int, int], across: "_Weights", down: "_Weights"
    ) -> Pixels:
        width, height = size
        left, right = across.window
        columns = np.empty((height, right - left, 4), np.uint8)
        for band, address, pitch in bands(picture, (left, down.window[0], right, down.window[1]), 0):
            self._columns(address, pitch, down, columns[:, band])
        result = np.empty((height, width, 3), np.uint8)
        self._rows(columns.ctypes.data, columns.strides[0], across, result, 3)
        return result

    def _rows(self, address: int, pitch: int, across: "_Weights", result: Pixels, step: int) -> None:
        """Resizes as many rows as ``result`` (rows, width, step) has."""
        four = np.empty((across.window[1] - across.window[0], 16), np.uint8)
        to = (four.ctypes.data, result.ctypes.data, result.strides[0])
        self.library.skipvit_rows(self.instructions, address, pitch, len(result), *across.given, step, *to)

    def _columns(self, address: int, pitch: int, down: "_Weights", result: Pixels) -> None:
        """Resizes as many columns as ``result`` (height, ...) has bytes in a row, which lie side by side."""
        width = result[0].size
        to = (result.ctypes.data, result.strides[0])
        brief = self.instructions and result.size * down.values.shape[1] < _BRIEF_PRODUCTS
        library = self.brief if brief else self.library
        library.skipvit_columns(self.instructions, address, pitch, width, *down.given, *to)


@dataclass(frozen=True)
class _Weights:
    """Of each output of an axis: spans (outputs, 2) int32, first input and count; values (outputs, taps) int32."""

    spans: npt.NDArray[np.int32]
    values: npt.NDArray[np.int32]

    @functools.cached_property
    def window(self) -> tuple[int, int]:
        """The first input that is taken, and the one after the last."""
        return int(self.spans[0, 0]), int(self.spans[-1].sum())

    @functools.cached_property
    def given(self) -> tuple[int, int, int, int]:
        """Where both lie, how many weights an output has, and how many outputs there are."""
        return self.spans.ctypes.data, self.values.ctypes.data, self.values.shape[1], len(self.spans)


@functools.lru_cache(_KEPT_LENGTHS)
def _kept_weights(
    library: Compiled, inputs: int, start: float, end: float, outputs: int, which: int
) -> _Weights | None:
    return library.new_weights(inputs, start, end, outputs, which)


def _rows_first_since_13(picture: tuple[int, int], result: tuple[int, int]) -> bool:
    """Pillow's pull request 9549: columns first, if the height loses more than twice as many pixels as the width."""
    return not (picture[1] > result[1] and picture[1] - result[1] > 2 * (picture[0] - result[0]))


def _rows_first_before_13(picture: tuple[int, int], result: tuple[int, int]) -> bool:
    return True


def _by_pillow(image: Image.Image, size: tuple[int, int], interpolation: Interpolation, box: Box) -> Pixels:
    return np.asarray(image.resize(size, _PILLOWS[interpolation], box=box), dtype=np.uint8)


def _agrees_with_pillow(library: Compiled) -> bool:
    random = np.random.default_rng(0)
    # Wide and high, smaller and larger, and 13 x 90, whose columns Pillow 13 takes first.
    for (width, height), size in (
        ((61, 37), (24, 24)),
        ((13, 90), (12, 20)),
        ((90, 13), (20, 12)),
        ((9, 11), (31, 17)),
    ):
        # Black and white: the sums then go beyond what eight bits hold, in both directions.
        image = Image.fromarray(random.integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255))
        box = (0.3, 0.7, width - 0.6, height - 0.2)
        checks: list[tuple[tuple[int, int], Box]] = [(size, box), *(_TIES if width == 61 else ())]
        for (asked, part), interpolation in itertools.product(checks, _FILTERS):
            found = library.resize(image, asked, interpolation, part)
            if found is None or not np.array_equal(found, _by_pillow(image, asked, interpolation, part)):
                return False
    return True


def _load(kind: type[ctypes.CDLL]) -> ctypes.CDLL:
    library = kind(str(LIBRARY))
    address, number, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    axis = [ctypes.c_float, ctypes.c_float, number, number]
    weights = [address, address, number, number]
    signatures: dict[str, tuple[list[Any], Any]] = {
        "skipvit_instructions": ([], number),
        "skipvit_taps": (axis, number),
        "skipvit_weights": ([number, *axis, address, address, address], None),
        "skipvit_rows": ([number, address, long, number, *weights, number, address, address, long], None),
        "skipvit_columns": ([number, address, long, number, *weights, address, long], None),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library
