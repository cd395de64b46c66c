"""The stages of an analysis: watch the attention, probe each block, time blocks, search a spec, try it as a whole.

How many images a stage looks at follows from the model's multiply-accumulates, so that an analysis of a ViT-S takes two
minutes of two cores, and looks at the same images wherever it runs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from skipvit.models.spec import Spec
from skipvit.models.vision_transformer import SkipVisionTransformer
from train.analysis_pictures import Chosen
from train.attention_statistics import Accumulator, Statistics
from train.block_times import BlockTimes, macs_of, measure_blocks, noise, timed_batch
from train.probes import PROBES, Cost, Original, Probe, compare, logits_under, probe_layers
from train.spec_search import Found, SpecSearch
from train.speed import rates
from train.vit_parts import UnfitModel, VitParts

_BATCH = 16
_RANK_IMAGES = 24
# Forward passes an image that all probes of a layer take, on average over layers: three that go on with all tokens from
# the middle, and two with a half and a quarter of them.
_PASSES_PER_PROBED_LAYER = 2.0
_SEARCH_PASS = 0.6  # of a forward pass: a candidate goes on from where it parts from the one before
_PROBE_MACS, _SEARCH_MACS = 2.2e12, 2.6e12
_GPU_FACTOR = 20
_LEAST_IMAGES, _MOST_IMAGES = 8, 256
_LEAST_EVALUATIONS, _MOST_EVALUATIONS = 24, 300


@dataclass(frozen=True)
class Findings:
    """What the stages found; times and search are None for a ViT that the family cannot take over.

    ``measured`` are seconds an image of the original and of the proposal, whole, in turns.
    """

    statistics: Statistics
    accuracy: float | None
    original: Original
    probes: dict[Probe, list[Cost | None]]
    unconvertible: str
    times: BlockTimes | None
    search: Found | None
    others: tuple[int, Cost] | None
    measured: tuple[float, float] | None


class Stages:
    """The stages of one analysis, under one progress bar."""

    def __init__(self, parts: VitParts, chosen: Chosen, target: float, probe_images: int | None) -> None:
        self.parts, self.chosen, self.target = parts, chosen, target
        self.macs = macs_of(parts)
        factor = 1 if parts.device.type == "cpu" else _GPU_FACTOR
        per_image = self.macs * _PASSES_PER_PROBED_LAYER * parts.depth
        affordable = max(_LEAST_IMAGES, min(_MOST_IMAGES, round(factor * _PROBE_MACS / per_image)))
        # the other half judges what the search found on this one
        half = max(1, (chosen.count + 1) // 2)
        self.probe_images = min(probe_images or affordable, half if chosen.count > 1 else 1)
        evaluations = factor * _SEARCH_MACS / (self.probe_images * self.macs * _SEARCH_PASS)
        self.evaluations = max(_LEAST_EVALUATIONS, min(_MOST_EVALUATIONS, round(evaluations)))
        self.batch = timed_batch(parts, self.macs)

    def run(self) -> Findings:
        """All stages in their order."""
        parts, chosen, p = self.parts, self.chosen, self.probe_images
        # in forward passes of one image, or about so
        passes = {
            "attention": 1.5 * chosen.count,
            "probes": p * _PASSES_PER_PROBED_LAYER * parts.depth,
            "block times": 9 * self.batch,
            "search": self.evaluations * p * _SEARCH_PASS,
            "proposal": 10 * self.batch,
        }
        with _bar(passes) as stage:
            with stage("attention", chosen.count) as step:
                statistics, logits = self._watch(step)
            with stage("probes", parts.depth * len(PROBES)) as step:
                images = parts.images(chosen.pixels(0, p))
                original = Original(parts, images, statistics.mean_map, chosen.labels(0, p))
                probes = probe_layers(original, step)
            if reason := _unconvertible(parts):
                return Findings(statistics, self._accuracy(logits), original, probes, reason, None, None, None, None)
            with stage("block times", 9) as step:
                times = measure_blocks(parts, self.batch, step)
            with stage("search", self.evaluations) as step:
                search = SpecSearch(original, probes, times, self.target, self.evaluations, step).run()
            with stage("proposal", 5) as step:
                others = self._others(search.proposal.spec, logits, statistics)
                model = SkipVisionTransformer.from_vit(parts.model, search.proposal.spec)
                speed = rates(parts.model, model, noise(parts, self.batch), step)
                measured = 1 / speed.first, 1 / speed.second
        return Findings(statistics, self._accuracy(logits), original, probes, "", times, search, others, measured)

    def _watch(self, step: Callable[[int], None]) -> tuple[Statistics, Tensor]:
        parts, chosen = self.parts, self.chosen
        accumulator = Accumulator(parts.depth, parts.has_class_token, _RANK_IMAGES)
        logits = []
        for start in range(0, chosen.count, _BATCH):
            images = parts.images(chosen.pixels(start, start + _BATCH))
            if start == 0:
                parts.verify(images[:2])
            logits.append(parts.watch(images, accumulator.see))
            if not torch.isfinite(logits[-1]).all():
                raise UnfitModel("the model's outputs are not finite (NaN or infinite) on some pictures")
            step(len(images))
        return accumulator.finish(), torch.cat(logits)

    def _accuracy(self, logits: Tensor) -> float | None:
        return compare(logits, logits, self.chosen.labels(0, self.chosen.count)).accuracy

    def _others(self, spec: Spec, logits: Tensor, statistics: Statistics) -> tuple[int, Cost] | None:
        """The proposal's cost on images that the search has not seen."""
        start = self.probe_images
        stop = min(self.chosen.count, 4 * start)
        if stop <= start:
            return None
        probed = []
        for low in range(start, stop, _BATCH):
            high = min(low + _BATCH, stop)
            images = self.parts.images(self.chosen.pixels(low, high))
            probed.append(logits_under(self.parts, images, spec, statistics.mean_map))
        labels = self.chosen.labels(start, stop)
        return stop - start, compare(logits[start:stop], torch.cat(probed), labels)


Stage = Callable[[str, int], Any]


@contextmanager
def _bar(passes: dict[str, float]) -> Iterator[Stage]:
    """One bar over stages of known weight, naming the one that runs."""
    layout = "{desc:<12}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=sum(passes.values()), bar_format=layout) as bar:

        @contextmanager
        def stage(name: str, steps: int) -> Iterator[Callable[[int], None]]:
            bar.set_description_str(name)
            end, per_step = bar.n + passes[name], passes[name] / steps
            yield lambda n: _advance(bar, min(n * per_step, end - bar.n))
            bar.update(end - bar.n)  # a search may end early

        yield stage


def _advance(bar: "tqdm[Any]", passes: float) -> None:
    bar.update(passes)


def _unconvertible(parts: VitParts) -> str:
    """Why the family cannot take over this ViT, or ""."""
    try:
        SkipVisionTransformer.from_vit(parts.model, Spec(static=(0,)))
    except ValueError as error:
        return str(error)
    return ""
