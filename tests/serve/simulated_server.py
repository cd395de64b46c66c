"""A server in simulated time: threads that work first come, first served, before them a ladder."""

import heapq
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from serve.models.ladder import Change, Ladder
from serve.models.ladder_load import Cost

TICK_S = 0.25


@dataclass
class Answered:
    came: float
    rung: int
    latency_s: float


@dataclass
class Simulation:
    """``true_s`` is what a picture really takes on each rung, ``told_s`` what the ladder was told at warm-up."""

    true_s: Sequence[float]
    told_s: Sequence[float]
    objective_s: float
    hold_s: float = 2.0
    threads: int = 2
    places: int = 128
    now: float = 0.0
    answered: list[Answered] = field(default_factory=list)
    changes: list[tuple[float, Change]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ladder = Ladder(len(self.true_s), self.objective_s, self.hold_s, self.places, lambda: self.now)
        for rung, told in enumerate(self.told_s):
            self.ladder.set_cost(rung, Cost(told, told / self.threads, self.threads))

    def play(self, arrivals: Iterable[float], until: float) -> None:
        """Runs requests of one picture that come at ``arrivals``, in order; the ladder is looked at between them."""
        free_at = [self.now] * self.threads
        ends: list[tuple[float, int]] = []
        works = {}
        ticks = (i * TICK_S for i in range(int(until / TICK_S) + 1))
        for number, (now, arrives) in enumerate(sorted([(t, True) for t in arrivals] + [(t, False) for t in ticks])):
            while ends and ends[0][0] <= now:
                self.now, ended = heapq.heappop(ends)
                work = works.pop(ended)
                self.ladder.ended(work, answered=True)
                self.answered.append(Answered(work.began, work.rung, self.now - work.began))
            self.now = now
            change = self.ladder.update()
            if change is not None:
                self.changes.append((now, change))
            if arrives:
                work = works[number] = self.ladder.began(self.ladder.step, 1, free=True)
                end = max(now, heapq.heappop(free_at)) + self.true_s[work.rung]
                heapq.heappush(free_at, end)
                heapq.heappush(ends, (end, number))

    def p99_s(self, since: float, until: float) -> float:
        """Of requests that came within these times."""
        latencies = sorted(a.latency_s for a in self.answered if since <= a.came < until)
        return latencies[min(len(latencies) - 1, int(0.99 * len(latencies)))]


def poisson(phases: Sequence[tuple[float, float]], seed: int = 0) -> list[float]:
    """Arrivals at random in phases of (seconds, rate) one after the other."""
    dice, times, begin = random.Random(seed), [], 0.0
    for seconds, rate in phases:
        now = begin + dice.expovariate(rate) if rate else begin + seconds
        while now < begin + seconds:
            times.append(now)
            now += dice.expovariate(rate)
        begin += seconds
    return times
