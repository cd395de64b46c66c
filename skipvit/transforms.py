"""Pictures to pixels: the one rule by which training, evaluation and the server see the same image.

A decoded ``PIL.Image`` becomes a uint8 array (H, W, 3) in sRGB order, values 0..255. Normalisation is not done
here: mean and std live inside the exported graph.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from skipvit.resampling import Box, Interpolation, resize, resize_padded

Pixels = npt.NDArray[np.uint8]
Positive = Annotated[float, Field(gt=0)]


class Preprocessing(BaseModel):
    """How a picture of any size becomes a model input; written into every checkpoint and manifest.

    ``crop`` resizes and takes the centre ``crop_pct`` of the largest window of the model's aspect ratio (timm's
    evaluation rule); ``squash`` resizes the whole picture, whatever its aspect ratio.
    ``mean`` and ``std`` are in units of the 0..1 range, and are applied inside the graph.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    height: int = Field(ge=1, le=16384)
    width: int = Field(ge=1, le=16384)
    resize: Literal["crop", "squash"] = "crop"
    crop_pct: float = Field(default=0.875, gt=0.0, le=1.0)
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)

    def __call__(self, image: Image.Image) -> Pixels:
        """Returns (height, width, 3) uint8 pixels of ``image``, which may have any mode and size."""
        rgb = to_rgb(image)
        box = self.window(rgb.width, rgb.height)
        size = (self.width, self.height)
        if rgb.size == size and box == (0.0, 0.0, float(rgb.width), float(rgb.height)):
            return np.asarray(rgb, dtype=np.uint8)
        return resize(rgb, size, self.interpolation, box)

    def of_padded(self, pixels: Pixels) -> Pixels:
        """The same of an RGB picture, decoded and upright: (height, width, 4) uint8, the fourth of no account."""
        height, width, _ = pixels.shape
        box = self.window(width, height)
        size = (self.width, self.height)
        if (width, height) == size and box == (0.0, 0.0, float(width), float(height)):
            return np.ascontiguousarray(pixels[..., :3])
        return resize_padded(pixels, size, self.interpolation, box)

    def window(self, width: int, height: int) -> Box:
        """The part of a width x height picture that is kept: left, top, right, bottom in source pixels."""
        if self.resize == "squash":
            return 0.0, 0.0, float(width), float(height)
        # The largest window of the target's aspect ratio, shrunk about the centre by crop_pct. Resizing that window
        # directly skips the pixels that a resize-then-crop would compute and throw away.
        scale = min(width / self.width, height / self.height) * self.crop_pct
        half_w, half_h = self.width * scale / 2, self.height * scale / 2
        # Rounding may put an edge a hair outside the picture, which Pillow refuses.
        left, right = max(0.0, width / 2 - half_w), min(float(width), width / 2 + half_w)
        top, bottom = max(0.0, height / 2 - half_h), min(float(height), height / 2 + half_h)
        return left, top, right, bottom


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns the picture as an 8-bit RGB image, upright as its EXIF orientation says.

    16-bit greyscale is scaled to 8 bits (Pillow's own conversion would clip it), transparency is laid over white, and
    CMYK, palette and the other modes go through Pillow's conversion.
    """
    upright = _upright(image)
    if is_deep_grey(upright):
        return eight_bit_grey(upright).convert("RGB")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return upright if upright.mode == "RGB" else upright.convert("RGB")


_ORIENTATION_TAG = 0x0112
_UNDO_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    # Pillow's exif_transpose writes the whole EXIF block back, and fails where any other tag of it is damaged.
    image.load()
    undo = undo_orientation(image)
    return image if undo is None else image.transpose(undo)


def undo_orientation(image: Image.Image) -> Image.Transpose | None:
    """What turns the picture upright, by its EXIF orientation; None if it is."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # whatever its parser makes of damaged metadata: the pixels are sound, and shown as they lie
        return None
    return _UNDO_ORIENTATION.get(orientation) if isinstance(orientation, int) else None


# 0..65535 to 0..255, rounded: a table needs no wider copy of a large picture.
_EIGHT_BITS = np.rint(np.arange(65536) / 257).astype(np.uint8)


_ROWS = 256


def is_deep_grey(image: Image.Image) -> bool:
    """Whether the picture is grey with more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def eight_bit_grey(image: Image.Image) -> Image.Image:
    """Returns a deep grey picture (see ``is_deep_grey``) with 8 bits, rounded.

    PNG's 16-bit grey opens as "I;16" or, in older Pillow, as "I"; both count from 0 to 65535. TIFF's 32-bit floats have
    no agreed range, so they are taken as 0..1 when they fit there and as 0..255 otherwise.
    """
    top = _top_of_floats(image) if image.mode == "F" else 0.0
    grey = Image.new("L", image.size)
    for row, values in _rows_of(image):
        if image.mode == "F":
            finite = np.nan_to_num(values, nan=0.0, posinf=top, neginf=0.0).clip(0, top)
            part = np.rint(finite * np.float32(255.0 / top)).astype(np.uint8)
        else:
            part = _EIGHT_BITS[values.clip(0, 65535)]
        grey.paste(Image.fromarray(part), (0, row))
    return grey


def _rows_of(image: Image.Image) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Some rows at a time: arrays of a whole large picture would take several times its memory."""
    for row in range(0, image.height, _ROWS):
        yield row, np.asarray(image.crop((0, row, image.width, min(row + _ROWS, image.height))))


def _top_of_floats(image: Image.Image) -> float:
    highest = max(np.max(values, where=np.isfinite(values), initial=0.0) for _, values in _rows_of(image))
    return 1.0 if highest <= 1.0 else 255.0


def stack(images: Sequence[Pixels]) -> Pixels:
    """Stacks B pictures of one size (H, W, 3) into (B, H, W, 3).

    Raises:
        ValueError: no picture was given, or two sizes differ.
    """
    if not images:
        raise ValueError("got no picture to stack; give at least one")
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise ValueError(f"pictures of one size are needed to make a batch, got {sorted(sizes)}")
    return np.stack(images)
