"""The last ten seconds of a server, for people who watch it: counts and latencies in slots of one second.

Prometheus keeps the history; this answers "how is it now" without one. Memory is bounded: latencies are counted in
bins 5 % apart, so a quantile is within 2.5 % of the true one.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import NamedTuple

WINDOW_S = 10
_SHORTEST_S = 1e-4
_STEP = math.log(1.05)
_BINS = 330  # up to 980 s


class Tally(NamedTuple):
    """What one process counted over the last ``seconds``; ``bins`` are of the latencies of what was answered."""

    seconds: float
    bins: list[int]
    rejected: int
    failed: int
    images: int
    batches: int


class Figures(NamedTuple):
    """Sums over the last ``seconds``; quantiles in seconds, None if nothing was answered."""

    seconds: float
    answered: int
    rejected: int
    failed: int
    images: int
    batches: int
    p50_s: float | None
    p99_s: float | None


class _Slot:
    """What happened in one second."""

    __slots__ = ("batches", "bins", "failed", "images", "rejected", "second")

    def __init__(self, second: int) -> None:
        self.second = second
        self.bins = [0] * _BINS
        self.rejected = self.failed = self.images = self.batches = 0


class Recent:
    """Counts what happens; any thread may call it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._slots: deque[_Slot] = deque(maxlen=WINDOW_S + 1)  # the present second, and those before it
        self._lock = threading.Lock()

    def answered(self, seconds: float) -> None:
        """Counts a request that was answered with what it asked for."""
        place = int(math.log(max(seconds, _SHORTEST_S) / _SHORTEST_S) / _STEP)
        with self._lock:
            self._now().bins[min(place, _BINS - 1)] += 1

    def rejected(self) -> None:
        """Counts a request that was turned away."""
        with self._lock:
            self._now().rejected += 1

    def failed(self) -> None:
        """Counts a request that failed by the server's fault, or by its deadline."""
        with self._lock:
            self._now().failed += 1

    def batch(self, size: int) -> None:
        """Counts one run of a model on ``size`` pictures or tiles."""
        with self._lock:
            slot = self._now()
            slot.images += size
            slot.batches += 1

    def tally(self) -> Tally:
        """The sums of now."""
        with self._lock:
            now = self._clock()
            oldest = int(now) - WINDOW_S
            slots = [slot for slot in self._slots if slot.second >= oldest]
            bins = [sum(column) for column in zip(*(slot.bins for slot in slots), strict=True)]
        return Tally(
            max(1.0, now - max(oldest, self._started)),
            bins,
            sum(slot.rejected for slot in slots),
            sum(slot.failed for slot in slots),
            sum(slot.images for slot in slots),
            sum(slot.batches for slot in slots),
        )

    def figures(self) -> Figures:
        """What they come to."""
        return figures_of([self.tally()])

    def _now(self) -> _Slot:
        second = int(self._clock())
        if not self._slots or self._slots[-1].second != second:
            self._slots.append(_Slot(second))
        return self._slots[-1]


def figures_of(tallies: Sequence[Tally]) -> Figures:
    """What the tallies of several processes come to together."""
    bins = [sum(column) for column in zip_longest(*(tally.bins for tally in tallies), fillvalue=0)]
    return Figures(
        max(tally.seconds for tally in tallies),
        sum(bins),
        sum(tally.rejected for tally in tallies),
        sum(tally.failed for tally in tallies),
        sum(tally.images for tally in tallies),
        sum(tally.batches for tally in tallies),
        _quantile(bins, 0.5),
        _quantile(bins, 0.99),
    )


def _quantile(bins: list[int], share: float) -> float | None:
    """The middle of the bin that holds the quantile of nearest rank."""
    rank = math.ceil(share * sum(bins))
    if not rank:
        return None
    seen = 0
    for place, count in enumerate(bins):
        seen += count
        if seen >= rank:
            return _SHORTEST_S * math.exp(_STEP * (place + 0.5))
    raise AssertionError("a rank is never over the sum")
