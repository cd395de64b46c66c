"""Pixels to bytes: the picture formats that a restored photograph can leave in, and what each cannot hold."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from serve.photograph import Photograph
from serve.web.accept import not_acceptable

# The server's own preference first; the name is Pillow's.
FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
_LONGEST_SIDE = {"image/jpeg": 65500, "image/webp": 16383}  # of libjpeg and of libwebp
# libwebp takes 20 bytes a pixel while it encodes (measured), and refuses large noisy pictures at high quality.
_MOST_PIXELS = {"image/webp": 10_000_000}
_WHITE: dict[str, float | tuple[float, ...]] = {"L": 255, "RGB": (255, 255, 255)}
# Measured on smooth photographs: level 6, zlib's own choice, takes 2 to 3 times as long for files 1 % smaller.
_PNG_LEVEL = 4
_FULL_CHROMA_FROM = 90


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as bytes of a media type."""

    data: bytes
    media_type: str
    notes: list[str]


def fitting_type(liked: Sequence[str], width: int, height: int) -> str:
    """The first of the liked types that holds a picture of this size.

    Raises:
        NotAcceptable: none does.
    """
    for media_type in liked:
        fits = max(width, height) <= _LONGEST_SIDE.get(media_type, max(width, height))
        if fits and width * height <= _MOST_PIXELS.get(media_type, width * height):
            return media_type
    raise not_acceptable(f"{width} x {height} pixels are too many for {' and '.join(liked)} here", list(FORMATS))


def encode(photograph: Photograph, media_type: str, quality: int) -> Encoded:
    """Returns the photograph as a file, with its profile and EXIF block. Takes its pixels: they are gone after it.

    Args:
        photograph: in any of its modes. A JPEG has no alpha: colours are laid over white, and a note says so.
        media_type: one of FORMATS.
        quality: 1 to 100, for JPEG and WebP; a PNG is exact.
    """
    notes = list(photograph.notes)
    if media_type == "image/jpeg" and photograph.image.mode in ("LA", "RGBA"):
        notes.append("transparent parts were laid over white: a JPEG has no alpha")
        photograph.image = _over_white(photograph.image)
    file = io.BytesIO()
    photograph.image.save(
        file,
        FORMATS[media_type],
        icc_profile=photograph.icc_profile,
        exif=photograph.exif,
        **_options(media_type, quality),
    )
    return Encoded(file.getvalue(), media_type, notes)


def _options(media_type: str, quality: int) -> dict[str, Any]:
    if media_type == "image/png":
        return {"compress_level": _PNG_LEVEL}
    if media_type == "image/jpeg":
        # Halved chroma would smear colours that were just restored.
        return {"quality": quality, "subsampling": "4:4:4" if quality >= _FULL_CHROMA_FROM else "4:2:0"}
    return {"quality": quality, "exact": True}  # exact: colours under full transparency are kept too


def _over_white(image: Image.Image) -> Image.Image:
    mode = image.mode.removesuffix("A")
    flat = Image.new(mode, image.size, _WHITE[mode])
    flat.paste(image, (0, 0), image)
    return flat
