"""Training-free probes: a ViT with some of its attention replaced, run on the same images, and what that costs.

    reuse   Ẑ_l := Ẑ_{l-1}: what a skipped block does before its Φ has learned anything
    static  A_l(x) := the mean map of the data: what a static block starts with
    drop    Ẑ_l := 0: what the layer is worth at all
    tokens  patch tokens averaged onto a smaller grid before block l: what a pyramid starts with

Replacements can be combined, and then run together: their costs do not add up.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from skipvit.models.spec import Reduction, Spec
from train.vit_parts import State, VitParts

Probe = Literal["reuse", "static", "drop", "tokens 1/2", "tokens 1/4"]
PROBES: tuple[Probe, ...] = ("static", "reuse", "drop", "tokens 1/2", "tokens 1/4")
SHARES = (Fraction(1, 2), Fraction(1, 4))


@dataclass(frozen=True)
class Cost:
    """What replacements cost, against the original model on the same images.

    Attributes:
        kl: mean KL(original || probed) of class probabilities, in nats.
        agreement: share of images whose top class stays.
        cosine: mean cosine of the logits, each image's mean taken away.
        accuracy: top-1, where labels are known.
        accuracy_change: the same, minus the original's.
    """

    kl: float
    agreement: float
    cosine: float
    accuracy: float | None
    accuracy_change: float | None


class Original:
    """The original model's logits on the probe images, and its states before each block, to go on from.

    Args:
        images: the model's input (B, 3, height, width).
        mean_map: of each block, (h, N, N).
        labels: (B,) class indices, or None.
    """

    def __init__(self, parts: VitParts, images: Tensor, mean_map: Sequence[Tensor], labels: Tensor | None) -> None:
        self.parts, self.mean_map, self.labels = parts, mean_map, labels
        self._plain = list(states(parts, parts.embed(images), Spec(), mean_map))
        self._near: tuple[Spec, list[State]] = (Spec(), self._plain)
        self.logits = parts.logits(self._plain[-1].x)

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def accuracy(self) -> float | None:
        """Top-1 on the probe images, where labels are known."""
        return None if self.labels is None else _accuracy(self.logits, self.labels)

    def probe(self, block: int, probe: Probe) -> Cost | None:
        """The cost of one replacement in one block; None where it cannot be made."""
        if block == 0 and probe not in ("static", "drop"):
            return None
        if probe == "drop":
            return compare(self.logits, self._dropped(block), self.labels)
        spec = _spec_of(block, probe)
        try:
            spec.grids(self.parts.depth, self.parts.grid)
        except ValueError:  # a grid too small to be reduced so far
            return None
        return self.cost(spec)

    def cost(self, spec: Spec, near: Spec | None = None) -> Cost:
        """The cost of all of a spec's replacements made at once.

        Args:
            near: a spec that begins alike; its states are kept until another is given, and gone on from.
        """
        base, before = self._states_of(near or Spec())
        start = min([*_differences(base, spec), self.parts.depth])
        *_, last = states(self.parts, before[start], spec, self.mean_map, start)
        return compare(self.logits, self.parts.logits(last.x), self.labels)

    def _states_of(self, spec: Spec) -> tuple[Spec, list[State]]:
        if spec == Spec():
            return spec, self._plain
        if self._near[0] != spec:
            self._near = (Spec(), self._plain)  # lets the former go before the next is made
            start = min([*_differences(Spec(), spec), self.parts.depth])
            later = states(self.parts, self._plain[start], spec, self.mean_map, start)
            self._near = (spec, [*self._plain[:start], *later])
        return self._near

    def _dropped(self, block: int) -> Tensor:
        parts, state = self.parts, self._plain[block]
        x = parts.finish(block, state.x, torch.zeros_like(state.x))
        for later in range(block + 1, parts.depth):
            x = parts.finish(later, x, parts.attend(later, x))
        return parts.logits(x)


def logits_under(parts: VitParts, images: Tensor, spec: Spec, mean_map: Sequence[Tensor]) -> Tensor:
    """Logits (B, classes) of images (B, 3, height, width) with all of a spec's replacements made at once."""
    *_, last = states(parts, parts.embed(images), spec, mean_map)
    return parts.logits(last.x)


def compare(original: Tensor, probed: Tensor, labels: Tensor | None) -> Cost:
    """The cost of getting logits ``probed`` (B, classes) in place of ``original``."""
    log_p, log_q = original.log_softmax(dim=1), probed.log_softmax(dim=1)
    kl = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(dim=1).mean()
    own, other = (x - x.mean(dim=1, keepdim=True) for x in (original, probed))
    accuracy = None if labels is None else _accuracy(probed, labels)
    return Cost(
        kl=max(0.0, float(kl)),
        agreement=float((probed.argmax(dim=1) == original.argmax(dim=1)).double().mean()),
        cosine=float(F.cosine_similarity(own, other, dim=1).mean()),
        accuracy=accuracy,
        accuracy_change=None if accuracy is None or labels is None else accuracy - _accuracy(original, labels),
    )


def states(parts: VitParts, state: State, spec: Spec, mean_map: Sequence[Tensor], start: int = 0) -> Iterator[State]:
    """The states before block ``start`` (the given one) and each later block, and after the last."""
    grids = spec.grids(parts.depth, parts.grid)
    yield state
    for block in range(start, parts.depth):
        x, z = state.x, state.z
        if grids[block] != state.grid:
            x = parts.pool(x, state.grid, grids[block])
            z = None if z is None else parts.pool(z, state.grid, grids[block])
        kind = spec.kind(block)
        if kind == "static":
            z = parts.attend_by(block, x, mean_map[block])
        elif kind == "dynamic":
            z = parts.attend(block, x)
        assert z is not None, "Spec.check refuses a skipped first block"
        state = State(parts.finish(block, x, z), z, grids[block])
        yield state


def probe_layers(
    original: Original, progress: Callable[[int], None] = lambda _: None
) -> dict[Probe, list[Cost | None]]:
    """All probes of all blocks, one at a time; ``progress`` hears of each."""
    found: dict[Probe, list[Cost | None]] = {}
    for probe in PROBES:
        found[probe] = []
        for block in range(original.parts.depth):
            found[probe].append(original.probe(block, probe))
            progress(1)
    return found


def _spec_of(block: int, probe: Probe) -> Spec:
    if probe == "static":
        return Spec(static=(block,))
    if probe == "reuse":
        return Spec(skip=(block,))
    return Spec(tokens=(Reduction(block, Fraction(probe.removeprefix("tokens "))),))


def _differences(one: Spec, other: Spec) -> set[int]:
    """The blocks at which two specs part."""
    tokens = {reduction.block for reduction in {*one.tokens} ^ {*other.tokens}}
    return {*one.static} ^ {*other.static} | {*one.skip} ^ {*other.skip} | tokens


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels.to(logits.device)).double().mean())
