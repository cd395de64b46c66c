"""Whose turn it is, of the pictures that wait for a decoder or an engine.

- **Priority.** High goes before normal, and normal before low; within a level, who came first goes first. With every
  ``STEP_S`` that one has waited it rises by one level, so that none waits forever: a low one goes before every high
  one that came two steps after it.
- **Models** take turns by the time that decoding and running their pictures took: of those with pictures of the same
  level waiting, the one that had the least of it. A slow model gets its share of the threads and no more.
- **Requests** of a model take turns, a picture each: behind a request of sixteen, one with a single picture waits for
  one of them and not for all.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from heapq import heappop, heappush
from queue import SimpleQueue
from typing import Generic, TypeVar

from serve.ticket import Ticket
from serve.urgency import Priority

T = TypeVar("T")
STEP_S = 0.5
_LEVELS = len(Priority)
_NORMAL = Priority.NORMAL - 1
_NEVER = float("inf")
# Of a model's pictures, the last so many say what one costs.
_REMEMBERED = 64


class Waiting:
    """Tickets that wait for an engine, by priority and age. Whoever uses it holds a lock."""

    def __init__(self) -> None:
        self._levels: tuple[deque[Ticket], ...] = tuple(deque() for _ in Priority)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def oldest_since(self) -> float:
        """Since when the ticket waits that has waited longest, by time.perf_counter; there is one."""
        return min(level[0].waiting_since for level in self._levels if level)

    def append(self, ticket: Ticket) -> None:
        """Adds a ticket, which waits since now."""
        self._levels[ticket.priority - 1].append(ticket)
        self._size += 1

    def popleft(self) -> Ticket:
        """Takes the ticket whose turn it is; there is one."""
        self._size -= 1
        if len(self._levels[1]) > self._size:  # all are normal
            return self._levels[1].popleft()
        rank = [
            level[0].waiting_since + place * STEP_S if level else _NEVER for place, level in enumerate(self._levels)
        ]
        return self._levels[rank.index(min(rank))].popleft()


_NEVER = float("inf")


class _Line(Generic[T]):
    """What waits of one model: a heap for each level of (round, number, since when, item)."""

    __slots__ = ("cost_s", "heaps", "jobs", "rounds", "size", "spent_s")

    def __init__(self) -> None:
        self.heaps: tuple[list[tuple[int, int, float, T]], ...] = tuple([] for _ in Priority)
        self.rounds = [0] * _LEVELS  # of the item that was taken last
        self.size = 0
        self.spent_s = 0.0
        self.cost_s = 0.0
        self.jobs = 0

    def rank(self, level: int) -> float:
        heap = self.heaps[level]
        return heap[0][2] + level * STEP_S if heap else _NEVER

    def take(self, level: int) -> T:
        """The next item, whose cost is charged in advance: two threads must not both think that it had the least."""
        round_, _, _, item = heappop(self.heaps[level])
        self.rounds[level] = round_
        self.size -= 1
        if self.jobs:
            self.spent_s += self.cost_s / self.jobs
        if self.jobs >= _REMEMBERED:
            self.cost_s /= 2
            self.jobs //= 2
        self.jobs += 1
        return item


class Turns(Generic[T]):
    """A queue of work for several threads, in which models and their requests take turns.

    ``clock`` says how long things have waited.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # One token for each item: threads sleep on it, and the lock is held for moments only.
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._lines: dict[Hashable, _Line[T]] = {}
        self._waiting: list[_Line[T]] = []  # lines with something in them
        self._now_s = 0.0  # what the line that was served last had spent
        self._number = 0

    def __len__(self) -> int:
        return self._tokens.qsize()

    def put(self, item: T, model: Hashable, priority: Priority, place: int = 0) -> None:
        """Adds an item of a model; ``place`` of its request's items come before it."""
        since = self._clock()
        with self._lock:
            line = self._lines.get(model)
            if line is None:
                line = self._lines[model] = _Line()
            if not line.size:
                self._waiting.append(line)
                line.spent_s = max(line.spent_s, self._now_s)  # time without work earns nothing
            line.size += 1
            level = priority - 1
            self._number += 1
            heappush(line.heaps[level], (line.rounds[level] + 1 + place, self._number, since, item))
        self._tokens.put(True)

    def get(self) -> T | None:
        """Waits for the item whose turn it is; None once the queue is closed and empty."""
        if not self._tokens.get():
            return None
        with self._lock:
            level = self._level()
            line = min((line for line in self._waiting if line.heaps[level]), key=_spent)
            self._now_s = line.spent_s
            item = line.take(level)
            if not line.size:
                self._waiting.remove(line)
        return item

    def _level(self) -> int:
        if all(line.size == len(line.heaps[_NORMAL]) for line in self._waiting):  # as usual
            return _NORMAL
        return min(range(_LEVELS), key=lambda level: min(line.rank(level) for line in self._waiting))

    def charge(self, model: Hashable, seconds: float) -> None:
        """Says that a thread spent so long on the model."""
        with self._lock:
            line = self._lines.get(model)
            if line is not None:
                line.cost_s += seconds

    def spent_s(self, model: Hashable) -> float:
        """What the model had of the threads, in seconds; comparable between models that have work."""
        line = self._lines.get(model)
        return line.spent_s if line else 0.0

    def close(self, threads: int) -> None:
        """Gives so many threads None after what is queued."""
        for _ in range(threads):
            self._tokens.put(False)


def _spent(line: _Line[T]) -> float:
    return line.spent_s
