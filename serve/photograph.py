"""A photograph on its way through a restorer: its pixels, which are replaced strip by strip, and what it came with.

Colour is treated on purpose, and what changes is said in a note:

- Grey stays grey and colour stays colour. A palette becomes RGB, or RGBA where it has a transparent colour.
- Alpha is kept as it is; only the colours under it are restored.
- More than 8 bits are reduced to 8, rounded where Pillow leaves that to us. CMYK and YCbCr become RGB.
- Pixels stay as they lie, and the EXIF block goes with them, so that its orientation stays right. Pillow turns a TIFF
  upright itself, and then there is nothing left to keep.
- An ICC profile is kept where it still describes the pixels.

The picture is held once, in Pillow's 4 bytes a pixel: finished strips are written over it.
"""

import re

import numpy as np
from PIL import Image

from serve.decoding import ImageLimits, explained, open_image
from serve.errors import quoted
from skipvit.tiling import Strip
from skipvit.transforms import Pixels, eight_bit_grey, is_deep_grey

_MAX_PROFILE_BYTES = 1 << 20
_EXIF_HEADER = b"Exif\x00\x00"
_MAX_EXIF_BYTES = 65533 - len(_EXIF_HEADER)  # what one segment of a JPEG holds
_ORIENTATION = 0x0112
_PROFILE_SPACE = {"L": b"GRAY", "LA": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB "}
_DEEP = re.compile(r";16")
# Their decoders hold no more than the file once the pixels are there. Others keep frames or buffers larger than the
# picture, which only a copy leaves behind.
_CLEAN = ("JPEG", "PNG", "BMP")


class OpenedPicture:
    """An encoded picture whose header was read and found to be within the limits."""

    def __init__(self, data: bytes, name: str | None, limits: ImageLimits) -> None:
        """Raises BadImage or TooLarge, as decoding.decode does."""
        self._data = data
        self._limits = limits
        self._what = quoted(name) if name else "the image"
        try:
            self._image = open_image(data, limits, self._what)
        except Exception as error:  # whatever Pillow's readers raise at damaged files: each format has its own ways
            raise explained(error, data, limits, self._what) from None
        self.width, self.height = self._image.size

    def decode(self) -> "Photograph":
        """Decodes the pixels; may be called once. Raises BadImage or TooLarge."""
        try:
            with self._image as image:
                return _developed(image)
        except Exception as error:  # Pillow again, and memory that runs out
            raise explained(error, self._data, self._limits, self._what) from None


class Photograph:
    """Pixels in one of the modes L, LA, RGB and RGBA, with the profile, the EXIF block and the notes of their file."""

    def __init__(self, image: Image.Image, icc_profile: bytes | None, exif: bytes, notes: list[str]) -> None:
        self.image = image
        self.icc_profile = icc_profile
        self.exif = exif
        self.notes = notes

    def region(self, box: tuple[int, int, int, int]) -> Pixels:
        """The colours (h, w, 3) inside ``box``: top, left, bottom, right. Grey is repeated."""
        top, left, bottom, right = box
        part = self.image.crop((left, top, right, bottom))
        return np.asarray(part if part.mode == "RGB" else part.convert("RGB"))

    def write(self, strip: Strip) -> None:
        """Replaces colours and leaves alpha alone. Of a grey picture, it keeps the luma (ITU-R 601-2) of the strip."""
        part = Image.fromarray(np.ascontiguousarray(strip.pixels))
        mode = self.image.mode
        if mode != "RGB":
            part = part.convert(mode)
        if mode in ("LA", "RGBA"):
            box = (strip.left, strip.top, strip.left + part.width, strip.top + part.height)
            part.putalpha(self.image.crop(box).getchannel("A"))
        self.image.paste(part, (strip.left, strip.top))


def _developed(image: Image.Image) -> Photograph:
    # Metadata and the raw mode first: decoding may drop them.
    info, tiff, raw_modes = image.info, image.format == "TIFF", str(getattr(image, "tile", ""))
    image.load()
    notes: list[str] = []
    if is_deep_grey(image):
        notes.append("restored at 8 bits: the picture had more")
    elif _DEEP.search(raw_modes):
        notes.append("restored at 8 bits: the picture had 16")
    exif = b"" if tiff else _exif(image, notes)
    plain = _plain(image, notes)
    if "'LA;16B'" in raw_modes:
        plain = plain.convert("LA")  # Pillow opens 16-bit grey with alpha as RGBA
    plain.info = {}  # Pillow would write some of it into the new file
    profile = _profile(info.get("icc_profile"), plain.mode, notes)
    return Photograph(plain, profile, exif, notes)


def _plain(image: Image.Image, notes: list[str]) -> Image.Image:
    """The picture in one of the four modes, detached from its file and what its decoder holds."""
    mode = image.mode
    if is_deep_grey(image):
        return eight_bit_grey(image)
    if mode == "1":
        notes.append("black and white became grey")
        return image.convert("L")
    if mode in ("L", "LA", "La"):
        return _converted(image, "LA" if image.has_transparency_data else "L")
    if mode == "CMYK":
        notes.append("CMYK became RGB")
    if mode in ("P", "PA"):
        notes.append("a palette became RGB")
    return _converted(image, "RGBA" if image.has_transparency_data else "RGB")


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode != mode:
        return image.convert(mode)
    return image if image.format in _CLEAN else image.copy()


def _profile(profile: object, mode: str, notes: list[str]) -> bytes | None:
    if not isinstance(profile, bytes) or not profile:
        return None
    if len(profile) > _MAX_PROFILE_BYTES:
        notes.append(f"the ICC profile of {len(profile)} bytes was dropped")
        return None
    # Its colour space is at byte 16 (ICC.1:2022, 7.2.6).
    if profile[16:20] != _PROFILE_SPACE[mode]:
        notes.append(f"the ICC profile was dropped: it is not for {'grey' if mode[0] == 'L' else 'RGB'}")
        return None
    return profile


def _exif(image: Image.Image, notes: list[str]) -> bytes:
    """The EXIF block with its header, or only its orientation where the block is too large to be written."""
    block = image.info.get("exif")
    if not isinstance(block, bytes):
        return b""
    block = block.removeprefix(_EXIF_HEADER)
    if not block.startswith((b"II*\x00", b"MM\x00*")):
        return b""
    if len(block) <= _MAX_EXIF_BYTES:
        return _EXIF_HEADER + block
    notes.append(f"the EXIF block of {len(block)} bytes was dropped, except its orientation")
    kept = Image.Exif()
    try:
        kept[_ORIENTATION] = int(image.getexif()[_ORIENTATION])
        return kept.tobytes()
    except Exception:  # whatever Pillow makes of a damaged block: without an orientation there is nothing to keep
        return b""
