"""What can be sent: a file, its bytes, a Pillow image or a uint8 array, all to a name and an encoded picture."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from skipvit.client.errors import BadInput

PictureLike: TypeAlias = str | Path | bytes | bytearray | memoryview | Image.Image | npt.NDArray[np.uint8]

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
# The picture crosses a network once; a smaller file would cost more time than it saves.
_PNG_LEVEL = 1


@dataclass(frozen=True, slots=True)
class Upload:
    """An encoded picture or clip, and the name of its file if it has one."""

    name: str | None
    data: bytes


def read_picture(picture: PictureLike) -> Upload:
    """Returns the picture as bytes of a file; images and arrays become a PNG, which is exact.

    Args:
        picture: a path; bytes of a PNG, JPEG or other file; a Pillow image; or uint8 of shape (H, W), (H, W, 1),
            (H, W, 3) in RGB or (H, W, 4) in RGBA, 0 to 255.

    Raises:
        BadInput: there is no such file, or it cannot be made a picture.
    """
    if isinstance(picture, str | Path):
        return read_file(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return Upload(None, bytes(picture))
    if isinstance(picture, Image.Image):
        return Upload(None, _png(picture))
    return Upload(None, _png(_image_of(picture)))


def read_file(path: str | Path) -> Upload:
    """A file's bytes. Raises BadInput if it cannot be read, or is no file."""
    if isinstance(path, str) and path.startswith(("http://", "https://", "data:")):
        raise BadInput(f"{path[:80]!r} is a URL, a path was needed", "download it first, and give its file or bytes")
    path = Path(path)
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist" if not path.exists() else "is no plain file"
            raise BadInput(f"{path} {what}", "give the path of a file")
        return Upload(path.name, path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _image_of(pixels: Any) -> Image.Image:
    if not isinstance(pixels, np.ndarray):
        raise BadInput(
            f"a {type(pixels).__name__} is no picture", "give a path, bytes, a Pillow image or a numpy array of uint8"
        )
    if pixels.dtype != np.uint8:
        raise BadInput(f"the array is {pixels.dtype}, uint8 from 0 to 255 was needed", "scale, round and cast it")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]  # (H, W, 1) -> (H, W)
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))) or 0 in pixels.shape:
        raise BadInput(
            f"the array's shape is {pixels.shape}, (H, W), (H, W, 3) or (H, W, 4) was needed",
            "give one picture at a time, its channels last; classify_many takes many",
        )
    return Image.fromarray(np.ascontiguousarray(pixels))


def _png(image: Image.Image) -> bytes:
    if image.mode not in _PNG_MODES:
        raise BadInput(f"a picture of mode {image.mode} cannot be sent exactly", "convert it: image.convert('RGB')")
    buffer = io.BytesIO()
    try:
        image.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    except (OSError, ValueError, SystemError) as error:
        raise BadInput(f"the picture cannot be encoded: {error}") from None
    return buffer.getvalue()
