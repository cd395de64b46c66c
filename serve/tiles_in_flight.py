"""Tiles of one request on their way through a model: a few at a time in its batcher, beside those of other requests."""

from collections.abc import Callable, Iterator
from queue import SimpleQueue

from serve.batcher import Batcher
from serve.engines.engine import Rows
from serve.ticket import Ticket
from serve.urgency import Priority
from skipvit.tiling import Blender, Plan, Tile
from skipvit.transforms import Pixels


class Stopped(Exception):
    """Nobody wants the result any more."""


class TilesInFlight:
    """At most ``ahead`` tiles, so that a large request leaves room for the next: who comes second waits for those only.

    ``restored`` blocks; ``stop`` may be called from another thread.
    """

    def __init__(self, batcher: Batcher, ahead: int, priority: Priority = Priority.NORMAL) -> None:
        self._batcher = batcher
        self._priority = priority
        self._ahead = ahead
        self._done: SimpleQueue[Ticket | None] = SimpleQueue()
        self._flight: dict[Ticket, Tile] = {}
        self.stopped = False
        self.waits_s: list[float] = []  # of each tile, for the engine
        self.runs_s: list[float] = []  # of each tile in the engine

    def stop(self) -> None:
        """Ends ``restored`` soon; tiles that no engine has taken yet are dropped."""
        self.stopped = True
        self.abandon()
        self._done.put(None)

    def abandon(self) -> None:
        """Has tiles that no engine has taken yet dropped."""
        for ticket in list(self._flight):  # another thread may be sending the next
            ticket.abandon()

    def restored(self, tiles: Plan, blender: Blender, cut: Callable[[Tile], Pixels]) -> Iterator[tuple[Tile, Rows]]:
        """Gives each tile with what the model made of it, in the order in which they are done.

        Args:
            blender: where the caller adds each result before it asks for the next.
            cut: makes the model's input of a tile, when there is room for it.

        Raises:
            RequestError: the model failed on a tile, or is out of service.
            Stopped: ``stop`` was called.
        """
        waiting = iter(tiles)
        upcoming = next(waiting, None)
        while upcoming or self._flight:
            if self.stopped:
                raise Stopped
            if upcoming and len(self._flight) < self._ahead and blender.has_room(upcoming):
                self._send(upcoming, cut(upcoming))
                upcoming = next(waiting, None)
            else:
                yield self._receive()

    def _send(self, tile: Tile, pixels: Pixels) -> None:
        ticket = Ticket(self._done.put, self._priority)
        ticket.pixels = pixels
        self._flight[ticket] = tile
        if self.stopped:  # ``stop`` may have looked through the tiles just before this one
            ticket.abandon()
        self._batcher.expect()
        self._batcher.put(ticket)

    def _receive(self) -> tuple[Tile, Rows]:
        ticket = self._done.get()
        if ticket is None:
            raise Stopped
        tile = self._flight.pop(ticket)
        if ticket.error is not None:
            raise ticket.error
        assert ticket.result is not None, "a ticket without an error has a result"
        self.waits_s.append(ticket.queue_s)
        self.runs_s.append(ticket.infer_s)
        return tile, ticket.result
