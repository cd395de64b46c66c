"""Tiles: how a picture of any size passes through a model in pieces of one size, and comes out without seams.

A model that restores pictures needs memory in proportion to their area. Here a picture of height H and width W is cut
into overlapping squares of ``tile`` pixels, which all have the same shape whatever H and W are, and what the model
makes of them is blended:

- Origins of tiles are multiples of ``multiple``, so that windows and strides of the model lie as they would in the
  whole picture. Where a tile reaches over the bottom or the right edge, the picture is reflected, as the models
  themselves pad.
- Neighbours overlap by at least ``2 * halo``. In an overlap, the weight of a tile is 0 over the outermost ``halo // 2``
  pixels, where the model lacked context, and rises smoothly (3 t^2 - 2 t^3) over the ``halo`` pixels in the middle. The
  outer edges of the picture are not faded. An operator that looks at most ``halo // 2`` pixels far gives exactly what
  it gives on the whole picture.
- Weights are whole multiples of 1 / 256 along each side and sum to exactly 1, so that sums of uint8 tiles are exact in
  float32: an identity returns the picture bit by bit, and the order in which tiles come back does not matter.

Tiles are numbered in bands across the shorter side of the picture. ``Blender`` holds the sums of the bands that are
unfinished, not of the picture.

Nothing here imports torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_STEPS = 256  # 8 bits of weight along either side and 8 of the pixel are the 24 that float32 adds exactly


class Tile(NamedTuple):
    """One tile: its place in the plan, its origin, and the part of the picture that it is made of."""

    band: int
    place: int
    top: int
    left: int
    box: tuple[int, int, int, int]  # top, left, bottom, right; inside the picture, smaller than the tile at its edges


class Strip(NamedTuple):
    """A finished part of the picture, (h, w, C), and where it belongs."""

    top: int
    left: int
    pixels: Array


@dataclass(frozen=True)
class Plan:
    """Where the tiles of one picture lie. Iterating gives the tiles, band by band."""

    height: int
    width: int
    tile: int
    halo: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @property
    def upright(self) -> bool:
        """Whether bands are columns of tiles: they run across the shorter side."""
        return self.width > self.height

    @property
    def bands(self) -> int:
        """Number of bands."""
        return len(self.lefts if self.upright else self.tops)

    @property
    def places(self) -> int:
        """Tiles in a band."""
        return len(self.tops if self.upright else self.lefts)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def __iter__(self) -> Iterator[Tile]:
        for band in range(self.bands):
            for place in range(self.places):
                row, column = (place, band) if self.upright else (band, place)
                top, left = self.tops[row], self.lefts[column]
                ys, xs = self._reach(top, self.height), self._reach(left, self.width)
                box = (int(ys.min()), int(xs.min()), int(ys.max()) + 1, int(xs.max()) + 1)
                yield Tile(band, place, top, left, box)

    def fit(self, region: Array, tile: Tile) -> Array:
        """Returns the model's input (tile, tile, C) made of ``region``, which is the picture inside ``tile.box``."""
        if tile.box == (tile.top, tile.left, tile.top + self.tile, tile.left + self.tile):
            return np.ascontiguousarray(region)
        ys = self._reach(tile.top, self.height) - tile.box[0]
        xs = self._reach(tile.left, self.width) - tile.box[1]
        return region[ys[:, np.newaxis], xs]

    def cut(self, picture: Array, tile: Tile) -> Array:
        """Returns the model's input (tile, tile, C) of a picture (H, W, C)."""
        top, left, bottom, right = tile.box
        return self.fit(picture[top:bottom, left:right], tile)

    def _reach(self, origin: int, size: int) -> npt.NDArray[np.int64]:
        return reflected(np.arange(origin, origin + self.tile), size)

    @cached_property
    def weights(self) -> tuple[list[npt.NDArray[np.float32]], list[npt.NDArray[np.float32]]]:
        """Weights (tile,) of every row of tiles and of every column of tiles."""
        return _weights(self.tops, self.tile, self.halo), _weights(self.lefts, self.tile, self.halo)


def plan(height: int, width: int, tile: int, halo: int, multiple: int = 1) -> Plan:
    """Returns the tiles of a picture; all arguments are in pixels.

    Raises:
        ValueError: the picture is empty, ``tile`` is no multiple of ``multiple``, or too small for ``halo``.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a picture has at least 1 x 1 pixels, got {height} x {width}")
    if multiple < 1 or tile < 1 or tile % multiple:
        raise ValueError(f"tiles must be a multiple of the model's {multiple} pixels, got {tile}")
    if halo < 0 or tile - 2 * halo < multiple:
        raise ValueError(
            f"tiles of {tile} pixels with a halo of {halo} on both sides leave less than one step of {multiple}; "
            "take a larger tile or a smaller halo"
        )
    tops, lefts = (_origins(size, tile, halo, multiple) for size in (height, width))
    return Plan(height, width, tile, halo, tops, lefts)


def _origins(size: int, tile: int, halo: int, multiple: int) -> tuple[int, ...]:
    """As few origins as will do, evenly spread: floor(i q) rises by at most ceil(q) steps, which are allowed."""
    if size <= tile:
        return (0,)
    steps = -(-(size - tile) // multiple)  # of the last origin, from which the tile reaches the edge or beyond
    longest = (tile - 2 * halo) // multiple
    jumps = -(-steps // longest)
    return tuple(i * steps // jumps * multiple for i in range(jumps + 1))


def _weights(origins: tuple[int, ...], tile: int, halo: int) -> list[npt.NDArray[np.float32]]:
    """One array (tile,) for each origin. Every tile takes over from the one before, so the sum telescopes to 1."""
    found = []
    for i, origin in enumerate(origins):
        at = np.arange(origin, origin + tile, dtype=np.float64) + 0.5
        rise = _takeover(at, origins[i - 1] + tile, origin, halo) if i else np.float64(1)
        fall = _takeover(at, origin + tile, origins[i + 1], halo) if i + 1 < len(origins) else np.float64(0)
        found.append(np.broadcast_to(rise - fall, tile).astype(np.float32))
    return found


def _takeover(at: npt.NDArray[np.float64], end: int, start: int, halo: int) -> npt.NDArray[np.float64]:
    """How much the tile from ``start`` has taken over at ``at`` from the one that ends at ``end``: 0 to 1."""
    centre = (start + end) / 2
    if not halo:
        return (at >= centre).astype(np.float64)
    t = np.clip((at - centre) / halo + 0.5, 0, 1)
    return np.rint((3 - 2 * t) * t * t * _STEPS) / _STEPS


def reflected(index: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Folds positions beyond 0..size - 1 back into it, without repeating the edge, as often as it takes."""
    if size == 1:
        return np.zeros_like(index)
    period = 2 * (size - 1)
    folded = np.mod(index, period)
    return np.where(folded < size, folded, period - folded)


class Blender:
    """Blends finished tiles, which may come in any order, into strips of the picture.

    It holds float32 sums of the bands from the first unfinished one to the last that a tile came for: with tiles begun
    only while ``has_room`` says so, two bands of ``tile`` x shorter side x channels. A strip is given out when no
    unfinished tile overlaps it, so it may be written over the picture that tiles are still being cut from.

    Args:
        plan: of the picture.
        channels: of the tiles.
        dtype: of the strips. uint8 is rounded half to even and clipped; float32 is neither.
    """

    def __init__(self, plan: Plan, channels: int = 3, dtype: Literal["uint8", "float32"] = "uint8") -> None:
        self._plan = plan
        self._channels = channels
        self._dtype = dtype
        self._added = np.zeros((plan.bands, plan.places), bool)
        self._sums: dict[int, npt.NDArray[np.float32]] = {}
        self._next = 0
        self._origins = plan.lefts if plan.upright else plan.tops
        self._length, self._across = sorted((plan.height, plan.width), reverse=True)

    @property
    def complete(self) -> bool:
        """Whether the whole picture was given out."""
        return self._next == self._plan.bands

    def has_room(self, tile: Tile) -> bool:
        """Whether a tile may be begun without a third band being held."""
        return tile.band < self._next + 2

    def add(self, tile: Tile, pixels: Array) -> list[Strip]:
        """Takes what the model made of ``tile``, (tile, tile, C), and returns what it finished.

        Raises:
            ValueError: the tile has another shape, or came before.
        """
        plan = self._plan
        if pixels.shape != (plan.tile, plan.tile, self._channels):
            raise ValueError(f"a tile is ({plan.tile}, {plan.tile}, {self._channels}), got {pixels.shape}")
        if self._added[tile.band, tile.place]:
            raise ValueError(f"tile {tile.place} of band {tile.band} came twice")
        self._added[tile.band, tile.place] = True
        if len(plan) == 1:
            self._next = 1
            return [Strip(0, 0, self._rounded(pixels[: plan.height, : plan.width]))]
        self._accumulate(tile, pixels)
        return list(self._finished())

    def _accumulate(self, tile: Tile, pixels: Array) -> None:
        # From here on the first axis runs along the longer side, whichever that is.
        along, across = self._plan.weights
        start = tile.left
        if self._plan.upright:
            pixels, along, across, start = pixels.swapaxes(0, 1), across, along, tile.top
        sums = self._band(tile.band)
        rows, columns = len(sums), min(self._plan.tile, self._across - start)
        part = pixels[:rows, :columns] * along[tile.band][:rows, np.newaxis, np.newaxis]
        part *= across[tile.place][:columns, np.newaxis]
        sums[:, start : start + columns] += part

    def _band(self, band: int) -> npt.NDArray[np.float32]:
        if band not in self._sums:
            rows = min(self._plan.tile, self._length - self._origins[band])
            self._sums[band] = np.zeros((rows, self._across, self._channels), np.float32)
        return self._sums[band]

    def _finished(self) -> Iterator[Strip]:
        while not self.complete and self._added[self._next].all():
            band = self._next
            sums, origin = self._sums.pop(band), self._origins[band]
            ended = len(sums)
            if band + 1 < self._plan.bands:
                ended = self._origins[band + 1] - origin
                rest = sums[ended:]
                self._band(band + 1)[: len(rest)] += rest
            self._next += 1
            pixels = self._rounded(sums[:ended])
            if self._plan.upright:
                yield Strip(0, origin, pixels.swapaxes(0, 1))
            else:
                yield Strip(origin, 0, pixels)

    def _rounded(self, pixels: Array) -> Array:
        if pixels.dtype == self._dtype:
            return pixels
        if self._dtype == "uint8":
            return np.rint(pixels).clip(0, 255).astype(np.uint8)
        return pixels.astype(np.float32)


def restore(
    picture: Array, plan: Plan, run: Callable[[Array], Array], dtype: Literal["uint8", "float32"] = "uint8"
) -> Array:
    """Returns the picture (H, W, C) with ``run`` applied to one tile (tile, tile, C) after the other."""
    blender = Blender(plan, picture.shape[2], dtype)
    result = np.empty(picture.shape, dtype)
    for tile in plan:
        for top, left, pixels in blender.add(tile, run(plan.cut(picture, tile))):
            result[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return result
