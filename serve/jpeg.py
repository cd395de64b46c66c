"""JPEGs to pixels by libjpeg-turbo alone, where that is certain to give what Pillow gives.

Pillow uses it too, and clears the picture before and widens each row after it. simplejpeg calls it once and is strict:
of whatever is not sound Pillow is asked, whose errors and repairs clients know. ``SKIPVIT_DECODING=pillow`` leaves all
to it.
"""

import functools
import io
import os

import numpy as np
from PIL import Image

from skipvit.transforms import Pixels, undo_orientation

try:
    import simplejpeg
except ImportError:  # a machine for which there are no wheels
    simplejpeg = None

_SUBSAMPLINGS = (0, 1, 2)  # Pillow's 4:4:4, 4:2:2 and 4:2:0


def pixels_of(data: bytes, image: Image.Image) -> Pixels | None:
    """Pixels (height, width, 4) uint8 of ``data``, the fourth of no account; None where Pillow is to decode it.

    Args:
        image: ``data`` as Pillow opened it, with all limits checked.
    """
    if image.format != "JPEG" or image.mode != "RGB" or why_not() or undo_orientation(image) is not None:
        return None
    return _decoded(data, image.size)


def description() -> str:
    """A sentence for an operator: what decodes JPEGs here, and if it is Pillow, why."""
    why = why_not()
    return f"JPEGs are decoded by Pillow: {why}" if why else f"JPEGs are decoded by simplejpeg {simplejpeg.__version__}"


@functools.cache
def why_not() -> str:
    """Why Pillow decodes JPEGs here, or nothing if it does not."""
    if os.environ.get("SKIPVIT_DECODING", "").lower() == "pillow":
        return "SKIPVIT_DECODING says so"
    if simplejpeg is None:
        return "simplejpeg is not installed"
    return "" if _agrees_with_pillow() else "simplejpeg gives other pixels than this Pillow"


def _decoded(data: bytes, size: tuple[int, int]) -> Pixels | None:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if (width, height) != size or colours != "YCbCr":
            return None  # the two have found different pictures in it, or one that is RGB as it is
        return simplejpeg.decode_jpeg(data, "RGBA", fastdct=False, fastupsample=False)
    except ValueError:
        return None


def _agrees_with_pillow() -> bool:
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (37, 61, 3), dtype=np.uint8))
    for subsampling in _SUBSAMPLINGS:
        for progressive in (False, True):
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
            found = _decoded(file.getvalue(), picture.size)
            if found is None or not np.array_equal(found[..., :3], np.asarray(Image.open(file))):
                return False
    return True
