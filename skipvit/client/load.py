"""Load on a server, closed loop or open, and what it answered, when.

Closed: so many clients, each sending its next request when the last was answered. A server that stalls is then asked
less, and its worst moments are hardly seen. Open: requests start at times of their own (a Poisson process), however
long answers take, and a latency counts from the time that a request was meant to start, so that a stall is seen by
all that came meanwhile.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from skipvit.client.asking import Asking, AskingInTurns, AskingOnTime, Connect


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to load a server: requests of the first ``warmup_s`` are not counted, those of ``seconds`` after it are.

    An answer that takes longer than ``timeout_s`` is not waited for.
    """

    seconds: float
    warmup_s: float = 0.0
    timeout_s: float = 60.0


@dataclass(slots=True)
class Measurement:
    """What a run saw.

    Attributes:
        latencies_s: of answers with status 200, in the order in which they came.
        outcomes: counted requests by status, or by "timeout", "refused" (no connection) and "broken" (a cut answer).
        answered: answers with status 200 that came within the counted seconds, whenever they were asked for.
        seconds: that were counted; fewer than planned if the run was ended early.
        late_s: the most that a request started after its time, because the client had no time itself.
        interrupted: whether the run was ended early.
    """

    latencies_s: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    seconds: float = 0.0
    late_s: float = 0.0
    interrupted: bool = False

    @property
    def requests_per_s(self) -> float:
        """Answers with status 200 in a second."""
        return self.answered / self.seconds if self.seconds > 0 else 0.0


def percentiles(latencies_s: Sequence[float], percents: Iterable[float]) -> list[float]:
    """For each percent, the smallest latency that so many of a hundred do not exceed; NaN if there are none."""
    percents = list(percents)
    if not latencies_s:
        return [float("nan")] * len(percents)
    return [float(value) for value in np.percentile(latencies_s, percents, method="inverted_cdf")]


def poisson_arrivals(rate: float, seconds: float, dice: random.Random) -> Iterator[float]:
    """Times from 0 to ``seconds`` at which requests start: independent of each other, ``rate`` a second on average."""
    time = dice.expovariate(rate)
    while time < seconds:
        yield time
        time += dice.expovariate(rate)


async def closed_loop(
    connect: Connect,
    requests: Sequence[bytes],
    clients: int,
    plan: Plan,
    into: Measurement | None = None,
) -> Measurement:
    """Loads a server with ``clients`` connections; cancelling ends it early, with what was measured until then.

    Args:
        requests: sent in turns.
        into: what is filled, answer by answer, and returned; for those who watch a run.
    """
    run = _Run(plan, into)
    turns = itertools.cycle(requests)
    return await run.result_of(AskingInTurns(plan.timeout_s, run.count, connect, turns, clients, run.until))


async def open_loop(
    connect: Connect,
    requests: Sequence[bytes],
    arrivals: Iterable[float],
    plan: Plan,
    max_connections: int = 1024,
    into: Measurement | None = None,
) -> Measurement:
    """Starts a request at each of ``arrivals``, in seconds from now; cancelling ends it early, as with closed_loop.

    A request that finds all ``max_connections`` busy waits for one, and the wait is part of its latency.
    """
    run = _Run(plan, into)
    coming = zip((run.began + offset for offset in arrivals), itertools.cycle(requests), strict=False)
    return await run.result_of(AskingOnTime(plan.timeout_s, run.count, connect, coming, max_connections, run.late))


class _Run:
    """The clock of a run, and what it counts."""

    def __init__(self, plan: Plan, into: Measurement | None) -> None:
        self._clock = asyncio.get_running_loop().time
        self.began = self._clock()
        self._counts_from = self.began + plan.warmup_s
        self.until = self._counts_from + plan.seconds
        self._measured = into or Measurement()

    def count(self, intended: float, outcome: str) -> None:
        """Counts a request that was meant to start at ``intended``, and is over now."""
        now = self._clock()
        found = self._measured
        if outcome == "200" and self._counts_from <= now <= self.until:
            found.answered += 1
        if intended >= self._counts_from:
            found.outcomes[outcome] += 1
            if outcome == "200":
                found.latencies_s.append(now - intended)

    def late(self, seconds: float) -> None:
        """Notes how late a request was started."""
        if seconds > self._measured.late_s:
            self._measured.late_s = seconds

    async def result_of(self, asking: Asking) -> Measurement:
        try:
            await asking.play()
        except asyncio.CancelledError:
            self._measured.interrupted = True
        self._measured.seconds = max(0.0, min(self.until, self._clock()) - self._counts_from)
        return self._measured
