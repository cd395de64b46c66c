"""What a ladder knows of its load: what came of late, what is in hand, and what a picture costs on each rung.

Cost is the server's time per picture when it is busy with nothing else: one over the pictures a second that it can
answer. It begins as what warm-up measured, which knows neither decoding nor what else the machine does, and is
corrected while more is in hand than runs at a time: then all that is finished in a second cost a second together.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_LEARN_EVERY_S = 0.25
_WEIGHT = 0.5  # of the newest measurement, where there was one before
_MOST_CORRECTION = 1000.0  # of one measurement, up or down
_FORGET_S = 60.0  # a correction that is not confirmed fades with this time constant: other load comes and goes
_LEAST_S = 1e-6


@dataclass(frozen=True, slots=True)
class Cost:
    """What warm-up measured of a variant.

    Attributes:
        alone_s: time of one picture alone, in seconds.
        picture_s: the server's time per picture, in seconds, with batches full and all threads at work.
        parallel: pictures that it works on at a time.
    """

    alone_s: float = 0.0
    picture_s: float = 0.0
    parallel: int = 1


class Window:
    """Pictures, and seconds of work, that came within the last ``span_s`` seconds."""

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._came: deque[tuple[float, int, float]] = deque()
        self._pictures = 0
        self._work_s = 0.0

    def add(self, now: float, pictures: int, work_s: float) -> None:
        """Counts an arrival."""
        self._came.append((now, pictures, work_s))
        self._pictures += pictures
        self._work_s += work_s

    def rates(self, now: float) -> tuple[float, float]:
        """Pictures a second, and seconds of work a second."""
        while self._came and self._came[0][0] <= now - self._span_s:
            _, pictures, work_s = self._came.popleft()
            self._pictures -= pictures
            self._work_s -= work_s
        if not self._came:
            self._work_s = 0.0  # sums of floats leave crumbs
        return self._pictures / self._span_s, self._work_s / self._span_s


class Costs:
    """Seconds per picture of every rung, corrected while the server is saturated, and pictures in hand of each."""

    def __init__(self, rungs: int, places: int) -> None:
        self._measured = [Cost()] * rungs
        self._correction = [0.0] * rungs  # logarithm of a factor
        self._corrected_at = [0.0] * rungs
        self._places = places
        self.in_hand = [0] * rungs
        self._busy_since: float | None = None
        self._finished = [0] * rungs  # since then

    def set(self, rung: int, cost: Cost) -> None:
        """Starts anew with what warm-up measured of the variant that stands there now."""
        self._measured[rung] = cost
        self._correction[rung] = 0.0

    def of(self, rung: int) -> Cost:
        """What warm-up measured."""
        return self._measured[rung]

    def picture_s(self, rung: int, now: float) -> float:
        """The server's time per picture on a rung, as far as is known now.

        What is added to the time of a faster rung, by decoding or by others who use the machine, is added here too.
        """
        faster = range(rung + 1, len(self._measured))
        added = max((self._learned_s(other, now) - self._told_s(other) for other in faster), default=0.0)
        learned = self._learned_s(rung, now)
        return max(learned, self._told_s(rung) + added) if added > 0 else learned

    def _told_s(self, rung: int) -> float:
        return max(_LEAST_S, self._measured[rung].picture_s)

    def _learned_s(self, rung: int, now: float) -> float:
        fading = math.exp((self._corrected_at[rung] - now) / _FORGET_S)
        return self._told_s(rung) * math.exp(self._correction[rung] * fading)

    def waiting_s(self, now: float) -> float:
        """How long it takes to finish all that is in hand."""
        return sum(count * self.picture_s(rung, now) for rung, count in enumerate(self.in_hand) if count)

    def at_least(self, rung: int, picture_s: float, now: float) -> None:
        """Tells that a picture costs no less than this: so few of them were too many."""
        self._correct(rung, max(0.0, math.log(picture_s / self._learned_s(rung, now))), now)

    def began(self, rung: int, pictures: int, now: float) -> None:
        """Takes pictures in hand."""
        self.in_hand[rung] += pictures
        if self._busy_since is None and self._saturated:
            self._restart(now)

    def ended(self, rung: int, pictures: int, answered: bool, now: float) -> None:
        """Lets go of pictures, which were ``answered`` or not."""
        self.in_hand[rung] -= pictures
        if self._busy_since is None:
            return
        self._finished[rung] += pictures if answered else 0
        if not self._saturated:
            self._busy_since = None
        elif now - self._busy_since >= _LEARN_EVERY_S:
            self._learn(now, now - self._busy_since)
            self._restart(now)

    @property
    def _saturated(self) -> bool:
        """Whether more is in hand than can run at a time, so that nothing of the server is idle."""
        parallel = max(cost.parallel for cost in self._measured)
        return sum(self.in_hand) >= max(2, min(2 * parallel, self._places // 2))

    def _restart(self, now: float) -> None:
        self._busy_since = now
        self._finished = [0] * len(self._finished)

    def _learn(self, now: float, elapsed_s: float) -> None:
        shares: Sequence[float] = [n * self._learned_s(rung, now) for rung, n in enumerate(self._finished)]
        believed_s = sum(shares)
        if not believed_s:
            return
        factor = min(_MOST_CORRECTION, max(1 / _MOST_CORRECTION, elapsed_s / believed_s))
        for rung, share in enumerate(shares):
            if share:
                weight = _WEIGHT if self._correction[rung] else 1.0
                self._correct(rung, weight * share / believed_s * math.log(factor), now)

    def _correct(self, rung: int, by: float, now: float) -> None:
        fading = math.exp((self._corrected_at[rung] - now) / _FORGET_S)
        self._correction[rung] = self._correction[rung] * fading + by
        self._corrected_at[rung] = now
