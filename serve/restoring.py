"""Restoring one photograph: its tiles go through the model's batcher, a few at a time, and come back as strips.

The thread that restores a photograph cuts and blends; the model runs in the batcher's threads, where tiles of all
requests queue up together. A photograph has at most ``ahead`` tiles there at a time, so that a large one leaves room
for the next: whoever comes second waits for no more than those.
"""

import time
from queue import SimpleQueue

from serve.batcher import Batcher
from serve.errors import TooLarge
from serve.photograph import Photograph
from serve.ticket import Ticket
from skipvit.manifest import Tiling
from skipvit.tiling import Blender, Plan, Tile, plan

_TIMES_THE_LARGEST = 4


class Stopped(Exception):
    """Nobody wants the result any more."""


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

    def __init__(self, batcher: Batcher, tiles: Plan, ahead: int) -> None:
        self._batcher = batcher
        self._plan = tiles
        self._ahead = ahead
        self._done: SimpleQueue[Ticket | None] = SimpleQueue()
        self._flight: dict[Ticket, Tile] = {}
        self._stopped = False
        self.waits_s: list[float] = []  # of each tile, for the engine
        self.runs_s: list[float] = []  # of each tile in the engine
        self.seconds = 0.0

    def stop(self) -> None:
        """Ends ``run`` soon; tiles that no engine has taken yet are dropped."""
        self._stopped = True
        self._done.put(None)

    def run(self, photograph: Photograph) -> None:
        """Restores the photograph in place.

        Raises:
            RequestError: the model failed on a tile, or is out of service.
            Stopped: ``stop`` was called.
        """
        started = time.perf_counter()
        try:
            self._run(photograph)
        finally:
            self.seconds = time.perf_counter() - started
            for ticket in self._flight:
                ticket.abandoned = True

    def _run(self, photograph: Photograph) -> None:
        blender = Blender(self._plan)
        tiles = iter(self._plan)
        upcoming = next(tiles, None)
        while upcoming or self._flight:
            if self._stopped:
                raise Stopped
            if upcoming and len(self._flight) < self._ahead and blender.has_room(upcoming):
                self._send(upcoming, photograph)
                upcoming = next(tiles, None)
            else:
                self._receive(blender, photograph)

    def _send(self, tile: Tile, photograph: Photograph) -> None:
        ticket = Ticket(self._done.put)
        ticket.pixels = self._plan.fit(photograph.region(tile.box), tile)
        self._flight[ticket] = tile
        self._batcher.expect()
        self._batcher.put(ticket)

    def _receive(self, blender: Blender, photograph: Photograph) -> None:
        ticket = self._done.get()
        if ticket is None:
            raise Stopped
        tile = self._flight.pop(ticket)
        if ticket.error is not None:
            raise ticket.error
        assert ticket.result is not None, "a ticket without an error has a result"
        self.waits_s.append(ticket.queue_s)
        self.runs_s.append(ticket.infer_s)
        for strip in blender.add(tile, ticket.result):
            photograph.write(strip)
