"""All fronts, as the engine's process sees them: who is connected, and who has which offer.

A front has a connection for each offer that it still uses. When the offer changes, the supervisor is asked for a new
connection for each front, one at a time; the models of the old offers are kept until no front uses them. On the event
loop, but for ``deliver``.
"""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress

from serve.fronts.desk import Desk
from serve.fronts.offer import Offer
from serve.models.repository import Failure, Key
from serve.models.served_model import ServedModel
from skipvit.manifest import Task

logger = logging.getLogger(__name__)

_AGAIN_AFTER_S = 5.0  # that a connection was asked for, and none came
_HANGS_AFTER_S = 20.0  # that a front was offered warm models, and has not changed over to them
_MOST_BETWEEN_LOOKS_S = 1.0  # five times as long as there should be


class RunningTime:
    """Seconds in which this process ran, by how often it looks at its clock.

    A machine that stands still, as a virtual one does while it is moved, stops the fronts too, and its clock goes on.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = clock()
        self._ran_s = 0.0

    def look(self) -> float:
        """Seconds until now; of those since the last look no more than there can be while it runs."""
        now = self._clock()
        self._ran_s += min(now - self._last, _MOST_BETWEEN_LOOKS_S)
        self._last = now
        return self._ran_s


class Desks:
    """The desks of all fronts. ``deliver`` is what the batchers are started with.

    Args:
        invite: asks for a new connection to a front, by its number.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        groups: Mapping[str, Task],
        invite: Callable[[int], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._running = RunningTime(clock)
        self.offer = Offer(0, models, {}, groups)
        self._invite = invite
        self._invited: dict[int, float] = {}
        self._warm = threading.Event()
        self._together = threading.local()
        self._fronts: dict[Desk, int] = {}
        self._known: set[int] = set()
        self._kept: dict[Desk, ExitStack] = {}
        self._awaited: dict[Desk, float] = {}  # those that have not changed over yet, and since when
        self._news = asyncio.Event()

    @property
    def open(self) -> int:
        """Connections to fronts."""
        return len(self._fronts)

    def change(self, models: Sequence[ServedModel], failures: Mapping[Key, Failure]) -> bool:
        """Takes note of what is served now; whether that is new."""
        if self.offer.is_of(models, failures):
            return False
        self.offer = Offer(self.offer.generation + 1, models, dict(failures), self.offer.groups)
        self.invite_those_behind()
        return True

    def add(self, front: int, connection: socket.socket) -> None:
        """Serves a new connection of a front from now on, in a thread of its own."""
        loop = asyncio.get_running_loop()
        desk = Desk(connection, self.offer, self._warm, self._together, lambda desk: _on(loop, self._hear, desk))
        self._invited.pop(front, None)
        self._fronts[desk] = front
        self._known.add(front)
        self._awaited[desk] = self._running.look()
        self._kept[desk] = stack = ExitStack()
        for model in self.offer.models:
            stack.enter_context(model.in_use())
        threading.Thread(target=desk.serve, name=f"front-{connection.fileno()}", daemon=True).start()

    def warm(self) -> None:
        """Tells all fronts, those to come too, that the models are warm."""
        self._awaited = dict.fromkeys(self._awaited, self._running.look())
        self._warm.set()

    def deliver(self, finish: Callable[[], None]) -> None:
        """Finishes the tickets of a batch, and tells each front of all of its own in one message."""
        self._together.records = {}
        try:
            finish()
        finally:
            told, self._together.records = self._together.records, None
            for desk, records in told.items():
                desk.outbox.post(bytes(records))

    def invite_those_behind(self) -> None:
        """Asks for a connection to every front that has not got the newest offer and is not about to get one.

        One that has none at all is asked for too: it may be alive, and have lost it.
        """
        now = time.monotonic()
        joining = {front for desk, front in self._fronts.items() if not desk.adopted}
        lost = self._known - set(self._fronts.values())
        for front in (self._behind(self.offer.generation) | lost) - joining:
            if now - self._invited.get(front, -_AGAIN_AFTER_S) >= _AGAIN_AFTER_S:
                self._invited[front] = now
                self._invite(front)

    def hung(self) -> list[int]:
        """Fronts that have not changed over to warm models in their time; each is named again after as long.

        To be asked several times a second: only time in which it is counts against them.
        """
        now = self._running.look()
        late = [desk for desk, since in self._awaited.items() if now - since >= _HANGS_AFTER_S and self._warm.is_set()]
        for desk in late:
            logger.error("front %d has not taken what is served in %g s: it hangs", self._fronts[desk], _HANGS_AFTER_S)
            self._awaited[desk] = now
        return sorted({self._fronts[desk] for desk in late})

    async def everywhere(self, within_s: float) -> bool:
        """Waits until every front answers by what is offered now; whether all did in time."""
        generation = self.offer.generation
        try:
            async with asyncio.timeout(within_s):
                while self._behind(generation):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            logger.error("fronts %s have not taken what is served now", sorted(self._behind(generation)))
            return False
        return True

    def _behind(self, generation: int) -> set[int]:
        """Fronts that have not changed over to this offer or a later one."""
        there = {front for desk, front in self._fronts.items() if desk.adopted and desk.offer.generation >= generation}
        return set(self._fronts.values()) - there

    def _hear(self, desk: Desk) -> None:
        self._awaited.pop(desk, None)
        if desk.gone:
            self._fronts.pop(desk, None)
            if desk in self._kept:
                self._kept.pop(desk).close()
        else:
            self.invite_those_behind()
        self._news.set()


def _on(loop: asyncio.AbstractEventLoop, call: Callable[[Desk], None], desk: Desk) -> None:
    with suppress(RuntimeError):  # the loop is closed: the process is ending
        loop.call_soon_threadsafe(call, desk)
