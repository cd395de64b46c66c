"""The ladder: which of a group's variants answers, as exact as latency within an objective allows.

Rung 0 is the most exact variant, the last rung the fastest. A request's rung is fixed when it comes. The ladder goes
down at once, by as many rungs as it takes, and up one at a time:

- Down, when the work in hand will take a new request too near to the objective; when more comes than the rung can
  answer and half of the objective is used up; when two requests since the last change were late, or are by their age;
  or when there is hardly any room for more requests. The first two see it coming, the others do not depend on what
  the ladder believes that a picture costs.
- After a step down what is in hand was begun on the old rung and has to drain: a backlog that does not grow is no
  reason for another.
- Up, when ``hold_s`` has passed since the last change, and in twice that time so little came that the rung above would
  have had 30 % to spare. A rung that does not hold after all can answer less than was believed, and is believed so.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from serve.models.ladder_load import Cost, Costs, Window

_NEAR = 0.8  # of the objective: a predicted latency over this is too long
_HALF = 0.5
_FULL = 0.95  # of a rung's capacity
_ENOUGH = 0.9  # most of a rung's capacity when stepping down to it
_TO_SPARE = 0.7  # most of a rung's capacity when stepping up to it
_GROWTH = 0.1  # of the objective: a backlog that drains may grow by this
_SHORT_S = 0.5
_LATE_WINDOW_S = 2.0
_LATE_AGE = 0.9  # of the objective: who waits for this long will be late
_TWO = 2  # one late request may be anybody's; two are the server's
_FAILED_WITHIN = 3.0  # hold times: a step up that is undone within this has failed


@dataclass(frozen=True, slots=True)
class Load:
    """What a decision rests on.

    Attributes:
        waiting_s: time until what is in hand is finished.
        allowed_s: the longest predicted latency that is no reason to step down.
        alone_s: time of a picture alone, of each rung.
        used: share of the server that arrivals take on each rung, as fast as they came in the last half second.
        used_lately: the same of the last two hold times.
        pressed: why to step down whatever the figures say, or "".
        may_rise: whether the step has been held long enough, and no request is stuck on the rung above.
    """

    waiting_s: float
    allowed_s: float
    alone_s: tuple[float, ...]
    used: tuple[float, ...]
    used_lately: tuple[float, ...]
    pressed: str
    may_rise: bool


@dataclass(frozen=True, slots=True)
class Change:
    """A step that was taken, and why."""

    before: int
    after: int
    why: str


@dataclass(slots=True, eq=False)
class Work:
    """Pictures of one request in hand. ``free`` is whether the ladder chose the rung, and not the client."""

    rung: int
    pictures: int
    began: float
    free: bool


def decide(step: int, load: Load, objective_s: float) -> int:
    """The next step. More load of any kind never leads to a lower one, from the same step."""
    last = len(load.alone_s) - 1
    predicted_s = load.waiting_s + load.alone_s[step]
    crowded = load.used[step] > _FULL and predicted_s > _HALF * objective_s
    if predicted_s > load.allowed_s or crowded or load.pressed:
        return next((rung for rung in range(step + 1, last) if load.used[rung] <= _ENOUGH), last)
    if not step or not load.may_rise:
        return step
    above = step - 1
    calm = load.waiting_s <= _HALF * objective_s and load.alone_s[above] <= _NEAR * objective_s
    return above if calm and load.used[step] <= _FULL and load.used_lately[above] <= _TO_SPARE else step


class Ladder:
    """The step of one group, and what it rests on. For one thread; ``clock`` gives seconds.

    Args:
        rungs: number of variants.
        objective_s: the latency that 99 of 100 requests are to stay within.
        hold_s: least time between any change and a step up.
        places: requests that may be in hand at a time.
    """

    def __init__(
        self, rungs: int, objective_s: float, hold_s: float, places: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.step = 0
        self.objective_s = objective_s
        self._hold_s = hold_s
        self._rungs = range(rungs)
        self._clock = clock
        self._costs = Costs(rungs, places)
        self._short, self._long = Window(_SHORT_S), Window(2 * hold_s)
        self._changed = clock()
        self._rose_at: float | None = None  # if the last change was a step up
        self._drains_s = 0.0  # what is allowed beyond the usual while the backlog of the last change drains
        self._in_hand: dict[Work, None] = {}  # whose rung the ladder chose, oldest first
        self._late: deque[float] = deque()
        self._pressed, self._pressed_at = "", 0.0

    def set_cost(self, rung: int, cost: Cost) -> None:
        """Tells what warm-up measured of the variant on a rung, when it is first served or replaced."""
        self._costs.set(rung, cost)

    def began(self, rung: int, pictures: int, *, free: bool) -> Work:
        """Counts a request for a rung that the ladder chose (``free``) or the client."""
        now = self._clock()
        work = Work(rung, pictures, now, free)
        work_s = 0.0 if free else pictures * self._costs.picture_s(rung, now)
        for window in (self._short, self._long):
            window.add(now, pictures if free else 0, work_s)
        self._costs.began(rung, pictures, now)
        if free:
            self._in_hand[work] = None
        return work

    def ended(self, work: Work, *, answered: bool) -> None:
        """Counts the end of a request."""
        now = self._clock()
        self._costs.ended(work.rung, work.pictures, answered, now)
        self._in_hand.pop(work, None)
        if work.free and answered and work.began >= self._changed and now - work.began > self.objective_s:
            self._late.append(now)

    def press(self, why: str) -> None:
        """Asks for a step down: there is hardly room for more requests, or one was turned away."""
        now = self._clock()
        if now - self._changed > self.objective_s:  # else what presses came with the old step
            self._pressed, self._pressed_at = why, now

    def update(self) -> Change | None:
        """Looks at the load, and takes the step that it asks for; call it before a request's rung is chosen."""
        now = self._clock()
        load = self._load(now)
        after = decide(self.step, load, self.objective_s)
        self._pressed = ""
        if after == self.step:
            return None
        change = Change(self.step, after, self._reason(load, now))
        self._take(after, load, now)
        return change

    def _load(self, now: float) -> Load:
        costs = [self._costs.picture_s(rung, now) for rung in self._rungs]
        rate, work = self._short.rates(now)
        rate_lately, work_lately = self._long.rates(now)
        faded = max(0.0, 1.0 - (now - self._changed) / (2 * self.objective_s))
        return Load(
            waiting_s=self._costs.waiting_s(now),
            allowed_s=_NEAR * self.objective_s + self._drains_s * faded,
            alone_s=tuple(self._costs.of(rung).alone_s for rung in self._rungs),
            used=tuple(rate * cost + work for cost in costs),
            used_lately=tuple(rate_lately * cost + work_lately for cost in costs),
            pressed=(self._pressed if now - self._pressed_at <= _LATE_WINDOW_S else "") or self._why_late(now),
            may_rise=now - self._changed >= self._hold_s and not self._is_stuck(self.step - 1, now),
        )

    def _why_late(self, now: float) -> str:
        while self._late and self._late[0] < now - _LATE_WINDOW_S:
            self._late.popleft()
        oldest = itertools.islice((work for work in self._in_hand if work.began >= self._changed), _TWO)
        waiting = sum(now - work.began > _LATE_AGE * self.objective_s for work in oldest)
        return "requests are late" if len(self._late) + waiting >= _TWO else ""

    def _is_stuck(self, rung: int, now: float) -> bool:
        """Whether a request on a rung has waited for longer than the objective."""
        return any(work.rung == rung and now - work.began > self.objective_s for work in self._in_hand)

    def _take(self, after: int, load: Load, now: float) -> None:
        down = after > self.step
        rate = max(self._short.rates(now)[0], self._long.rates(now)[0])
        failed = down and self._rose_at is not None and now - self._rose_at < _FAILED_WITHIN * self._hold_s
        if failed and rate:
            self._costs.at_least(self.step, 1 / rate, now)
        backlog_s = load.waiting_s + load.alone_s[after] + _GROWTH * self.objective_s
        self._drains_s = max(0.0, backlog_s - _NEAR * self.objective_s) if down else 0.0
        self._rose_at = None if down else now
        self.step = after
        self._changed = now
        self._late.clear()

    def _reason(self, load: Load, now: float) -> str:
        rate = self._short.rates(now)[0]
        predicted_s = load.waiting_s + load.alone_s[self.step]
        figures = (
            f"{predicted_s * 1000:.0f} ms predicted of {self.objective_s * 1000:.0f} ms allowed, "
            f"{rate:.1f} pictures/s take {load.used[self.step]:.0%} of it"
        )
        return f"{load.pressed}; {figures}" if load.pressed else figures
