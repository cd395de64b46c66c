"""What all processes say of themselves, collected when one of them is asked: metrics, or the last ten seconds.

To metrics belongs what processes that died had counted.
"""

import time
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass
from itertools import count

from serve.fronts.metrics import merged

Inherit = Callable[[bytes, bytes], bytes]
"""What is left of all that died, from that of those before and that of the last."""
_WITHIN_S = 1.0


def counted(past: bytes, last: bytes) -> bytes:
    """What metrics have counted."""
    return merged([past, last], counts_only=True)


def nothing(_past: bytes, _last: bytes) -> bytes:
    """What is past is past."""
    return b""


@dataclass
class _Scrape:
    asker: Hashable
    missing: set[Hashable]
    give: Callable[[list[bytes]], None]
    deadline: float


class Scrapes:
    """Scrapes under way. Who does not answer in time is taken as it was at the last: a sum must never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, inherit: Inherit = counted) -> None:
        self._clock = clock
        self._inherit = inherit
        self._numbers = count()
        self._scrapes: dict[int, _Scrape] = {}
        self._samples: dict[Hashable, bytes] = {}  # of each process, as it last gave them
        self._past = b""  # what processes that died had counted

    def begin(
        self, asker: Hashable, own: bytes, others: Collection[Hashable], give: Callable[[list[bytes]], None]
    ) -> int:
        """Starts a scrape for a process whose own metrics are ``own``, and returns its number.

        When all others have added theirs, or the time is over, ``give`` gets those of all but the asker.
        """
        number = next(self._numbers)
        self._samples[asker] = own
        self._scrapes[number] = _Scrape(asker, set(others), give, self._clock() + _WITHIN_S)
        self._end_if_complete(number)
        return number

    def add(self, number: int, process: Hashable, samples: bytes) -> None:
        """Takes the metrics of a process."""
        self._samples[process] = samples
        if number in self._scrapes:
            self._scrapes[number].missing.discard(process)
            self._end_if_complete(number)

    def bury(self, process: Hashable) -> None:
        """A process died: what it had counted when it was last asked stays in the sums."""
        last = self._samples.pop(process, b"")
        self._past = self._inherit(self._past, last)
        for number in list(self._scrapes):
            self._scrapes[number].missing.discard(process)
            self._end_if_complete(number)

    def deadlines(self) -> Iterator[float]:
        """When each scrape must be over."""
        return (scrape.deadline for scrape in self._scrapes.values())

    def expire(self) -> None:
        """Ends scrapes that have waited long enough."""
        for number, scrape in list(self._scrapes.items()):
            if self._clock() >= scrape.deadline:
                self._end(number)

    def _end_if_complete(self, number: int) -> None:
        if not self._scrapes[number].missing:
            self._end(number)

    def _end(self, number: int) -> None:
        scrape = self._scrapes.pop(number)
        others = [samples for process, samples in self._samples.items() if process is not scrape.asker]
        scrape.give([*others, self._past] if self._past else others)
