"""The pictures that an exported denoiser is compared on: clean ones with noise added, in the sizes asked for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from skipvit.picture_files import open_picture, pictures_in
from skipvit.transforms import Pixels, to_rgb

SIGMA = 25.0  # of the noise, in grey levels
_NOISE = f"noise of sigma {SIGMA:g}"
_MAX_PICTURES = 8
_LARGEST_SIDE = 1024  # of a picture, whose centre is kept
_SYNTHETIC_PICTURES, _SYNTHETIC_SIDE = 3, 256


def clean_pictures(samples: Sequence[Pixels] | None, folder: Path | None) -> tuple[list[Pixels], str]:
    """Up to 8 pictures of ``folder`` where one is given, else the checkpoint's, else generated; and in words whence.

    Raises:
        OriginError: the folder holds no picture, or one cannot be read.
    """
    if folder is not None:
        paths = pictures_in(folder)[:_MAX_PICTURES]
        pictures = [open_picture(path, _pixels) for path in paths]
        return pictures, f"{len(paths)} pictures of {folder.name}, {_NOISE}"
    if samples is not None:
        pictures = list(samples[:_MAX_PICTURES])
        return pictures, f"{len(pictures)} of the checkpoint's pictures, {_NOISE}"
    return _synthetic(), f"{_SYNTHETIC_PICTURES} generated pictures, {_NOISE}"


def noisy_batch(pictures: Sequence[Pixels], count: int, height: int, width: int, seed: int) -> Pixels:
    """(count, height, width, 3) uint8: the pictures in turn, cropped or mirrored to size, with Gaussian noise added.

    A picture may be a clip (frames, H, W, 3), and then so is each of the batch.
    """
    rng = np.random.default_rng(seed)
    batch = []
    for index in range(count):
        clean = _fit(pictures[index % len(pictures)], height, width)
        noise = rng.normal(0.0, SIGMA, clean.shape)
        batch.append(np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8))
    return np.stack(batch)


def noisy_clips(pictures: Sequence[Pixels], frames: int, count: int, height: int, width: int, seed: int) -> Pixels:
    """(count, frames, height, width, 4) uint8: clips, or pictures that stand still, with noise added; and its map."""
    clips = noisy_batch([_lasting(picture, frames) for picture in pictures], count, height, width, seed)
    return np.concatenate([clips, np.full_like(clips[..., :1], round(SIGMA))], axis=-1)


def _lasting(picture: Pixels, frames: int) -> Pixels:
    """The first frames of a clip, its mirror image in time where it is too short, or of a picture that stands still."""
    clip = picture[None] if picture.ndim == 3 else picture
    return np.pad(clip, [(0, max(0, frames - len(clip))), (0, 0), (0, 0), (0, 0)], mode="symmetric")[:frames]


def _fit(picture: Pixels, height: int, width: int) -> Pixels:
    """The centre of a picture (..., H, W, 3) where it is larger than asked for, its mirror images around it else."""
    *leading, own_height, own_width, _ = picture.shape
    missing = [max(0, height - own_height), max(0, width - own_width)]
    around = [(n // 2, n - n // 2) for n in missing]
    padded = np.pad(picture, [(0, 0)] * len(leading) + [*around, (0, 0)], mode="symmetric")
    top, left = (padded.shape[-3] - height) // 2, (padded.shape[-2] - width) // 2
    return padded[..., top : top + height, left : left + width, :]


def _pixels(image: Image.Image) -> Pixels:
    """The centre of a picture, at most 1024 x 1024."""
    rgb = to_rgb(image)
    width, height = min(rgb.width, _LARGEST_SIDE), min(rgb.height, _LARGEST_SIDE)
    left, top = (rgb.width - width) // 2, (rgb.height - height) // 2
    return np.asarray(rgb.crop((left, top, left + width, top + height)), dtype=np.uint8)


def _synthetic() -> list[Pixels]:
    """Smooth random pictures, for a model that comes with none: fixed seed, all of the value range."""
    rng = np.random.default_rng(0)
    side = (_SYNTHETIC_SIDE, _SYNTHETIC_SIDE)
    coarse = rng.integers(0, 256, (_SYNTHETIC_PICTURES, 8, 8, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(c).resize(side, Image.Resampling.BICUBIC), dtype=np.uint8) for c in coarse]
