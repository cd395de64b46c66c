"""Bytes to pixels, trusting nothing: format, pixels and frames are checked on the header, before a pixel is decoded.

Pillow's parsers meet hostile bytes here, so whatever they raise becomes a 400 that names the file. Everything is
bounded: the body by its cap, the bitmap by ``max_pixels``, text and profiles inside a PNG by Pillow's own limits.
"""

import importlib
import io
import logging
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from serve.errors import BadImage, RequestError, TooLarge, quoted
from serve.hidden_work import check_hidden_work
from serve.jpeg import pixels_of
from skipvit.transforms import Pixels, Preprocessing

logger = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# Pillow would import each format's plugin at the first file of its kind, and that request would wait for it.
for _plugin in ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP"):
    importlib.import_module(f"PIL.{_plugin}ImagePlugin")
# A photo from a phone may be an MPO: a JPEG followed by a depth map or gain map, which are no frames of it.
_STILL = ("JPEG", "MPO")
# What Pillow raises on files that are merely broken; anything else is logged, for it may be worth a report.
_EXPECTED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError)

_RE_SAVE = f"open the picture in an editor and save it again as {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


@dataclass(frozen=True)
class ImageLimits:
    """What a header may claim."""

    max_pixels: int = 50_000_000
    max_frames: int = 1


def open_large_images(limits: ImageLimits) -> None:
    """Moves Pillow's own bomb check, a setting of the whole process, out of the way where ``limits`` allow more."""
    Image.MAX_IMAGE_PIXELS = max(limits.max_pixels, Image.MAX_IMAGE_PIXELS or 0)


def decode(data: bytes, preprocessing: Preprocessing, limits: ImageLimits, name: str | None = None) -> Pixels:
    """Returns the model's input, (height, width, 3) uint8, of an encoded picture.

    Raises:
        BadImage: the bytes are empty, truncated, of another format, or contradict themselves.
        TooLarge: the header claims too many pixels or frames.
    """
    what = quoted(name) if name else "the image"
    try:
        with open_image(data, limits, what) as image:
            pixels = pixels_of(data, image)
            return preprocessing(image) if pixels is None else preprocessing.of_padded(pixels)
    except Exception as error:  # whatever Pillow's readers raise at hostile bytes: each format has its own ways
        raise explained(error, data, limits, what) from None


def open_image(data: bytes, limits: ImageLimits, what: str) -> Image.Image:
    """Returns the picture with its header checked and its pixels not yet decoded.

    Raises:
        Exception: RequestError, or anything that Pillow raises on hostile bytes: pass it to ``explained``.
    """
    if not data:
        raise BadImage("empty_image", f"{what} is empty: it has 0 bytes", "send the bytes of a picture")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_header(image, limits, what)
    check_hidden_work(image, data, what)
    return image


def explained(error: Exception, data: bytes, limits: ImageLimits, what: str) -> RequestError:
    """What a client is told of an error while its picture was opened or decoded."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return _too_many_pixels(what, "more pixels than Pillow opens", limits)
    if isinstance(error, UnidentifiedImageError):
        return _unidentified(data, what)
    if isinstance(error, MemoryError):
        return TooLarge("image_too_large", f"{what} does not fit into this server's memory", "send a smaller picture")
    # Pillow's parsers on hostile bytes raise anything, and all of it is a bad image.
    if not isinstance(error, _EXPECTED):
        logger.warning("unusual error while decoding %s (%d bytes)", what, len(data), exc_info=error)
    return _broken(data, what, error)


def _check_header(image: Image.Image, limits: ImageLimits, what: str) -> None:
    if image.width * image.height > limits.max_pixels:
        raise _too_many_pixels(what, f"{image.width} x {image.height} pixels", limits)
    if image.format in _STILL or not getattr(image, "is_animated", False):
        return
    # Counting a GIF's frames walks the whole file, so they are counted only where more than one is allowed.
    frames = getattr(image, "n_frames", 1) if limits.max_frames > 1 else 2
    if frames > limits.max_frames:
        count = str(frames) if limits.max_frames > 1 else "more than one"
        raise TooLarge(
            "too_many_frames",
            f"{what} has {count} frames, the limit is {limits.max_frames}",
            "send one frame as a picture of its own",
        )


def _too_many_pixels(what: str, size: str, limits: ImageLimits) -> TooLarge:
    return TooLarge(
        "image_too_large",
        f"{what} has {size}, the limit is {limits.max_pixels} pixels",
        "make the picture smaller before sending it",
    )


def _unidentified(data: bytes, what: str) -> BadImage:
    found = f"its {len(data)} bytes start with {data[:12]!r}"
    if data[4:8] == b"ftyp":
        found = f"it is a {data[8:12].decode('ascii', 'replace').strip()} file (HEIC, AVIF or a video)"
    elif data.lstrip()[:1] in (b"<", b"{", b"["):
        found = f"it is text that starts with {data[:24]!r}"
    return BadImage("not_an_image", f"{what} is not an image that this server reads: {found}", _RE_SAVE)


def _broken(data: bytes, what: str, error: Exception) -> BadImage:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if "truncated" in reason.lower() or isinstance(error, EOFError):
        return BadImage(
            "truncated_image",
            f"{what} is cut short: it ends after {len(data)} bytes, before the picture does ({reason})",
            "send the whole file; compare its size with the original's",
        )
    return BadImage("bad_image", f"{what} cannot be decoded ({reason})", _RE_SAVE)
