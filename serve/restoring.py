"""Restoring one photograph: its tiles go through the model's batcher, a few at a time, and come back as strips.

The thread that restores a photograph cuts and blends; the model runs in the batcher's threads, where tiles of all
requests queue up together.
"""

import time

from serve.batcher import Batcher
from serve.errors import TooLarge
from serve.photograph import Photograph
from serve.tiles_in_flight import TilesInFlight
from serve.urgency import Priority
from skipvit.manifest import Tiling
from skipvit.tiling import Blender, Plan, Tile, plan
from skipvit.transforms import Pixels

_TIMES_THE_LARGEST = 4


def plan_for(width: int, height: int, tiling: Tiling, max_pixels: int) -> Plan:
    """Returns the tiles of a picture.

    Raises:
        TooLarge: they are many more than the largest picture has: a line of pixels costs as much as a row of tiles.
    """
    tiles = plan(height, width, tiling.tile, tiling.halo, tiling.multiple)
    step = (tiling.tile - 2 * tiling.halo) // tiling.multiple * tiling.multiple
    most = _TIMES_THE_LARGEST * (max_pixels // step**2 + 1)
    if len(tiles) > most:
        raise TooLarge(
            "too_many_tiles",
            f"{width} x {height} pixels make {len(tiles)} tiles of {tiling.tile} x {tiling.tile}, the limit is {most}",
            "cut the picture up before sending it: thin ones make more tiles than they have pixels to fill",
        )
    return tiles


class Restoration:
    """One photograph in the hands of a model. ``run`` blocks; ``stop`` may be called from another thread."""

    def __init__(self, batcher: Batcher, tiles: Plan, ahead: int, priority: Priority = Priority.NORMAL) -> None:
        self._plan = tiles
        self.tiles = TilesInFlight(batcher, ahead, priority)
        self.seconds = 0.0

    def stop(self) -> None:
        """Ends ``run`` soon; tiles that no engine has taken yet are dropped."""
        self.tiles.stop()

    def run(self, photograph: Photograph) -> None:
        """Restores the photograph in place.

        Raises:
            RequestError: the model failed on a tile, or is out of service.
            Stopped: ``stop`` was called.
        """
        started = time.perf_counter()
        blender = Blender(self._plan)

        def cut(tile: Tile) -> Pixels:
            return self._plan.fit(photograph.region(tile.box), tile)

        try:
            for tile, pixels in self.tiles.restored(self._plan, blender, cut):
                for strip in blender.add(tile, pixels):
                    photograph.write(strip)
        finally:
            self.seconds = time.perf_counter() - started
            self.tiles.abandon()
