"""Looks for the spec that reaches a target speed at the least cost, judging each candidate as a whole.

Costs of single replacements do not add up, so they only say which candidates are worth a look; what counts is the cost
of all replacements run together. First comes a greedy walk: from the plain ViT, always the change with the least cost
per time saved, until the target is reached. What is left of the evaluations goes into neighbours of the best specs
found at any speed: a block more or less, static for skipped, a reduction one block earlier or later.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from skipvit.models.spec import Reduction, Spec
from train.block_times import BlockTimes
from train.probes import SHARES, Cost, Original, Probe
from train.vit_parts import VitParts, check_spec

_PER_STEP = 5  # children of a greedy step that are looked at
_PER_VISIT = 3  # neighbours of a good spec that are looked at before the next one has its turn
_OVERSHOOT = 1.15  # beyond this times the target, speed is no gain, and no way to a better spec either
_FOCUS = 4.0  # visits that a spec e times as costly as the best, or as far from the target, has to wait for its turn
_TINY = 1e-9


@dataclass(frozen=True)
class Candidate:
    """A spec, its predicted speed in times the original, and its cost, all replacements together."""

    spec: Spec
    speed: float
    cost: Cost


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        proposal: the least costly candidate that reaches the target; the fastest one where none does.
        reached: whether it does.
        curve: for each speed on the way, the best spec: both speed and cost rise.
        evaluations: how many candidates were run.
    """

    proposal: Candidate
    reached: bool
    curve: list[Candidate]
    evaluations: int


class SpecSearch:
    """One search.

    Args:
        original: runs the candidates.
        probes: what single replacements cost, from `probe_layers`.
        times: predicts speeds.
        target: speed to reach, in times the original's.
        evaluations: how many candidates may be run.
        progress: hears of each candidate that was run.
    """

    def __init__(
        self,
        original: Original,
        probes: dict[Probe, list[Cost | None]],
        times: BlockTimes,
        target: float,
        evaluations: int,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.original, self.times, self.target = original, times, target
        self.left, self.budget, self.progress = evaluations, evaluations, progress
        self._single = {name: [None if c is None else c.kl for c in costs] for name, costs in probes.items()}
        nothing = Cost(0.0, 1.0, 1.0, original.accuracy, None if original.accuracy is None else 0.0)
        self.seen: dict[Spec, Candidate] = {Spec(): Candidate(Spec(), 1.0, nothing)}
        self._curve = list(self.seen.values())
        self._open: dict[Spec, list[Spec]] = {}  # neighbours of a spec that were not looked at when it was last asked

    def run(self) -> Found:
        """Searches until the evaluations are used up, or nothing is left to try."""
        self._walk()
        self._refine()
        reaching = [c for c in self._curve if c.speed >= self.target]
        proposal = reaching[0] if reaching else self._curve[-1]
        return Found(proposal, bool(reaching), self._curve, self.budget - self.left)

    def _walk(self) -> None:
        here = self.seen[Spec()]
        while here.speed < self.target and self.left > 0:
            faster = [s for s in self._neighbours(here.spec) if self._speed(s) > here.speed * 1.001]
            faster.sort(key=lambda spec: self._estimate(spec, here) / self._saved(spec, here))
            tried = [self._evaluate(spec, here.spec) for spec in faster[:_PER_STEP] if self.left > 0]
            if not tried:
                break
            here = min(tried, key=lambda c: (c.cost.kl - here.cost.kl) / self._saved(c.spec, here))

    def _refine(self) -> None:
        visits: dict[Spec, int] = {}
        while self.left > 0:
            worth = {c.spec: self._distance(c) + visits.get(c.spec, 0) for c in self.seen.values()}
            for here in sorted(self.seen.values(), key=lambda c: worth[c.spec]):
                new = [s for s in self._neighbours(here.spec) if s not in self.seen and self._useful(s)]
                self._open[here.spec] = new
                if new:
                    break
            else:
                return  # all that can be reached has been looked at
            visits[here.spec] = visits.get(here.spec, 0) + 1
            new.sort(key=lambda spec: self._estimate(spec, here) / self._best_at(self._speed(spec)))
            for spec in new[:_PER_VISIT]:
                if self.left > 0:
                    self._evaluate(spec, here.spec)

    def _distance(self, candidate: Candidate) -> float:
        """How far a candidate is from the best of its speed, and its speed from the target: both as logarithms."""
        behind = math.log(max(candidate.cost.kl, _TINY) / self._best_at(candidate.speed))
        return _FOCUS * (behind + abs(math.log(candidate.speed / self.target)))

    def _useful(self, spec: Spec) -> bool:
        return 1.0 < self._speed(spec) <= self.target * _OVERSHOOT

    def _evaluate(self, spec: Spec, near: Spec) -> Candidate:
        if spec not in self.seen:
            self.seen[spec] = Candidate(spec, self._speed(spec), self.original.cost(spec, near))
            self._curve = pareto([*self._curve, self.seen[spec]])
            self.left -= 1
            self.progress(1)
        return self.seen[spec]

    def _speed(self, spec: Spec) -> float:
        return self.times.speed(spec)

    def _saved(self, spec: Spec, than: Candidate) -> float:
        """Share of the original's time that a faster spec saves beyond a slower one."""
        return max(_TINY, 1 / than.speed - 1 / self._speed(spec))

    def _best_at(self, speed: float) -> float:
        """The least cost so far at this speed or more."""
        return max(_TINY, next((c.cost.kl for c in self._curve if c.speed >= speed), math.inf))

    def _estimate(self, spec: Spec, near: Candidate) -> float:
        """The cost that single probes let one expect, scaled by how wrong they were about a spec nearby."""
        expected = self._added(near.spec)
        return self._added(spec) * (near.cost.kl / expected if expected > 0 else 1.0)

    def _added(self, spec: Spec) -> float:
        total = sum(self._of("static", block) for block in spec.static)
        total += sum(self._of("reuse", block) for block in spec.skip)
        previous: Probe | None = None
        for reduction in spec.tokens:
            name: Probe = "tokens 1/2" if reduction.size == SHARES[0] else "tokens 1/4"
            before = self._of(previous, reduction.block) if previous else 0.0
            total += max(0.0, self._of(name, reduction.block) - before)
            previous = name
        return total

    def _of(self, probe: Probe, block: int) -> float:
        cost = self._single[probe][block]
        return math.inf if cost is None else cost

    def _neighbours(self, spec: Spec) -> list[Spec]:
        if spec not in self._open:
            near = neighbours(spec, self.original.parts)
            self._open[spec] = [other for other in near if math.isfinite(self._added(other))]
        return self._open[spec]


def neighbours(spec: Spec, parts: VitParts) -> Iterator[Spec]:
    """The specs one change away that the model can follow without training."""
    for other in _one_change_away(spec, parts.depth):
        try:
            check_spec(parts, other)
        except ValueError:
            continue
        if _falling(other.tokens):
            yield other


def _one_change_away(spec: Spec, depth: int) -> Iterator[Spec]:
    for block in range(depth):
        static = tuple(b for b in spec.static if b != block)
        skip = tuple(b for b in spec.skip if b != block)
        if spec.kind(block) != "dynamic":
            yield replace(spec, static=static, skip=skip)
        if spec.kind(block) != "static":
            yield replace(spec, static=(*static, block), skip=skip)
        if spec.kind(block) != "skip":
            yield replace(spec, static=static, skip=(*skip, block))
    reduced = {reduction.block for reduction in spec.tokens}
    for block, share in itertools.product(range(1, depth), SHARES):
        if block not in reduced:
            yield replace(spec, tokens=(*spec.tokens, Reduction(block, share)))
    for reduction in spec.tokens:
        others = tuple(r for r in spec.tokens if r != reduction)
        yield replace(spec, tokens=others)
        for block in (reduction.block - 1, reduction.block + 1):
            if 1 <= block < depth:  # in the place of another one, if there is one
                elsewhere = tuple(r for r in others if r.block != block)
                yield replace(spec, tokens=(*elsewhere, Reduction(block, reduction.size)))
        for share in SHARES:
            if share != reduction.size:
                yield replace(spec, tokens=(*others, Reduction(reduction.block, share)))


def _falling(tokens: tuple[Reduction, ...]) -> bool:
    sizes = [reduction.size for reduction in tokens]
    return all(isinstance(a, Fraction) and isinstance(b, Fraction) and a > b for a, b in itertools.pairwise(sizes))


def pareto(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that no other is faster than at no more cost, slowest first."""
    best: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (-c.speed, c.cost.kl)):
        if not best or candidate.cost.kl < best[-1].cost.kl:
            best.append(candidate)
    return best[::-1]
