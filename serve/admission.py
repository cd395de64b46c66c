"""Admission: how much may be in flight, and when to come back if it is too much."""

import math
import time
from collections.abc import Callable

from serve.errors import Overloaded

_FORGET_S = 10.0  # the throughput estimate follows the last ten busy seconds
_LONGEST_RETRY_S = 60


class Places:
    """Counts what is in flight, pictures or pixels. Used on the event loop only, so it needs no lock."""

    def __init__(self, limit: int, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.in_flight = 0
        self._what = what
        self._clock = clock
        self._since = clock()
        # Decaying sums over time with something in flight: idle time says nothing about how fast this server is.
        self._busy_s = 0.0
        self._done = 0.0

    def check(self, count: int = 1) -> None:
        """Raises Overloaded if ``count`` more would be over the limit."""
        if self.in_flight + count > self.limit:
            raise Overloaded(
                f"{self.in_flight} {self._what} are in flight and {count} more came, the limit is {self.limit}",
                self.retry_after_s(),
            )

    def admit(self, count: int) -> None:
        """Takes ``count`` places, or raises Overloaded."""
        self.check(count)
        self._pass_time()
        self.in_flight += count

    def release(self, count: int, answered: int) -> None:
        """Gives the places back; ``answered`` of the ``count`` got an answer."""
        self._pass_time()
        self.in_flight -= count
        self._done += answered

    def retry_after_s(self) -> int:
        """Seconds until what is in flight now will be done, at the measured throughput."""
        self._pass_time()
        if not self._done:
            return 1  # nothing measured yet
        return max(1, math.ceil(min(_LONGEST_RETRY_S, self.in_flight * self._busy_s / self._done)))

    def _pass_time(self) -> None:
        now = self._clock()
        if self.in_flight:
            elapsed = now - self._since
            keep = math.exp(-elapsed / _FORGET_S)
            self._busy_s = self._busy_s * keep + elapsed
            self._done *= keep
        self._since = now


class Admission(Places):
    """Counts pictures and buffered bytes in flight."""

    def __init__(self, limit: int, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(limit, "pictures", clock)
        self.max_bytes = max_bytes
        self.buffered = 0

    def buffer(self, size: int) -> None:
        """Takes memory for body bytes, or raises Overloaded."""
        if self.buffered + size > self.max_bytes:
            raise Overloaded(
                f"{self.buffered} bytes of request bodies are held and {size} more came, the limit is {self.max_bytes}",
                self.retry_after_s(),
            )
        self.buffered += size

    def unbuffer(self, size: int) -> None:
        """Gives memory back."""
        self.buffered -= size
