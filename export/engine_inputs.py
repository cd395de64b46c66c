"""What an engine is compared on: real pictures where there are some, in batches that its profile takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.engine_arguments import Profile
from export.engine_target import Target
from export.noisy_pictures import clean_pictures, noisy_batch, noisy_clips
from export.pictures import COMPARED, pictures_for
from skipvit.artifacts import Entry
from skipvit.picture_files import OriginError, open_picture, pictures_in
from skipvit.transforms import Pixels, stack, to_rgb

Batch = dict[str, npt.NDArray[Any]]
Shapes = Mapping[str, Sequence[Sequence[int]]]
_TILES = 5  # odd, so that one batch is padded


@dataclass(frozen=True)
class Inputs:
    """Batches, how many pictures they hold, and in words where these are from."""

    batches: tuple[Batch, ...]
    images: int
    source: str
    real: bool


def check_pictures(target: Target, folder: Path) -> None:
    """Looks for pictures in the user's folder before a build that would end without them.

    Raises:
        OriginError: there are none, or a plain graph has no use for them.
    """
    if target.entry is None:
        raise OriginError(
            f"{target.graph.path} is compared on random inputs, as nothing says how it takes pictures; "
            "leave --images out"
        )
    pictures_in(folder)


def as_served(target: Target, shapes: Shapes) -> dict[str, Profile]:
    """The profiles, with a denoiser's own size of tile as the usual one where they take it: what a server runs."""
    profiles = {name: Profile(*map(tuple, shape)) for name, shape in shapes.items()}
    if target.entry is None or target.entry.manifest.tiling is None:
        return profiles
    tile = target.entry.tiling.tile
    for name, profile in profiles.items():
        if all(low <= tile <= high for low, high in zip(profile.smallest[-3:-1], profile.largest[-3:-1], strict=True)):
            profiles[name] = profile._replace(usual=(*profile.usual[:-3], tile, tile, profile.usual[-1]))
    return profiles


def inputs_for(target: Target, shapes: Shapes, folder: Path | None) -> Inputs:
    """Batches of the smallest size that the profile takes, and of larger ones.

    Args:
        shapes: the profile: smallest, usual and largest shape of every input.
        folder: pictures to take instead of the entry's.

    Raises:
        OriginError: the pictures cannot be read.
    """
    if target.entry is None:
        return _random(target, shapes)
    ((name, (smallest, usual, largest)),) = shapes.items()
    if target.entry.manifest.task == "classification":
        pixels, source, real = _classifiable(target.entry, folder)
    else:
        pixels, source, real = _restorable(target.entry, usual, folder)
    batches = _cut(pixels, smallest[0], largest[0])
    return Inputs(tuple({name: batch} for batch in batches), sum(map(len, batches)), source, real)


def _cut(pixels: Pixels, smallest: int, largest: int) -> list[Pixels]:
    """One batch of the smallest size, then the rest in batches as large as the engine takes; none is too small."""
    if len(pixels) < smallest:
        pixels = np.concatenate([pixels] * -(-smallest // len(pixels)))
    starts = [0, *range(smallest, len(pixels), largest)]
    batches = [pixels[a:b] for a, b in zip(starts, [*starts[1:], len(pixels)], strict=True)]
    return [batch for batch in batches if len(batch) >= smallest]


def _classifiable(entry: Entry, folder: Path | None) -> tuple[Pixels, str, bool]:
    """The user's pictures, else those that came with the entry, else generated ones."""
    kept = [name for name in sorted(entry.manifest.files) if name.startswith(COMPARED)]
    if folder is None and kept:
        pixels = stack([open_picture(entry.folder / name, _pixels) for name in kept])
        return pixels, f"{len(kept)} pictures of the entry", True
    pictures = pictures_for(entry.preprocessing, None, folder)
    return pictures.images, pictures.source, pictures.real


def _restorable(entry: Entry, usual: Sequence[int], folder: Path | None) -> tuple[Pixels, str, bool]:
    """Noisy tiles, or clips, as an engine takes them."""
    samples = [open_picture(entry.folder / name, _pixels) for name in entry.manifest.samples]
    clean, source = clean_pictures(samples or None, folder)
    *_, height, width, _ = usual
    if entry.manifest.task == "denoising":
        pixels = noisy_batch(clean, _TILES, height, width, seed=0)
    else:
        pixels = noisy_clips(clean, entry.tiling.frames, _TILES, height, width, seed=0)
    return pixels, source, bool(samples or folder)


def _pixels(image: Any) -> Pixels:
    return np.asarray(to_rgb(image), dtype=np.uint8)


def _random(target: Target, shapes: Shapes) -> Inputs:
    """Of a graph that nothing is known of: whole numbers and bytes of all their range, and standard normal values."""
    rng = np.random.default_rng(0)
    batches = []
    for which in (0, 1):  # the smallest and the usual batch, of rows of the usual shape
        batch = {}
        for name, profile in shapes.items():
            dtype, _ = target.graph.inputs[name]
            batch[name] = _drawn(rng, dtype, (profile[which][0], *profile[1][1:]))
        batches.append(batch)
    images = sum(next(iter(batch.values())).shape[0] for batch in batches)
    return Inputs(tuple(batches), images, f"{images} random inputs", real=False)


def _drawn(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.standard_normal(shape).astype(kind)
    if kind == np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return np.zeros(shape, kind)
