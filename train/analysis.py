"""The part of skipvit-analyze that needs torch: model and pictures in, all figures out.

How many images a stage looks at follows from the model's multiply-accumulates, so that an analysis of a ViT-S takes two
minutes of two cores, and is the same wherever it runs.
"""

import dataclasses
import json
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from skipvit.checkpoints import CheckpointError
from skipvit.complexity import count_params
from skipvit.models.spec import Spec
from skipvit.models.vision_transformer import SkipVisionTransformer
from skipvit.origin import Origin, OriginError, resolve
from skipvit.provenance import commit, machine, versions_of
from train.analysis_pictures import Chosen, choose_pictures
from train.attention_statistics import Accumulator, Statistics
from train.block_times import BlockTimes, macs_of, measure_blocks, measure_models, timed_batch
from train.denormals import flushed_denormals
from train.pictures import DataError
from train.probes import PROBES, Cost, Original, Probe, compare, logits_under, probe_layers
from train.spec_search import Candidate, Found, SpecSearch
from train.vit_parts import UnfitModel, VitParts

EXPECTED = (OriginError, CheckpointError, DataError, UnfitModel, ValueError)

SCHEMA_VERSION = 1
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
class Request:
    """What the user asked for; ``probe_images`` None: as many as the time allows."""

    source: str
    images: str
    weights: Path | None = None
    pretrained: bool = False
    model_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    limit: int = 384
    target: float = 1.5
    probe_images: int | None = None
    device: str = "auto"


def analyse(request: Request) -> dict[str, Any]:
    """Runs all stages; returns what analysis.json holds, see `train/analysis_report.py`.

    Raises:
        EXPECTED: anything the user can mend.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    origin = resolve(request.source, request.weights, request.pretrained, request.model_args)
    device = _device(request.device)
    with flushed_denormals(), torch.inference_mode():
        parts = VitParts(origin.model.to(device), origin.preprocessing)
        chosen = choose_pictures(request.images, origin.labels, origin.preprocessing, request.limit)
        stages = Stages(parts, chosen, request)
        found = stages.run()
    return {
        "schema_version": SCHEMA_VERSION,
        "notes": _notes(origin, chosen, found),
        "model": _describe_model(origin, parts, request, stages.macs),
        "pictures": {"source": chosen.source, "images": chosen.count, "accuracy": found.accuracy},
        "statistics": _jsonable(found.statistics),
        "probes": {
            "images": stages.probe_images,
            "accuracy": found.original.accuracy,
            "costs": {probe: [_jsonable(cost) for cost in costs] for probe, costs in found.probes.items()},
        },
        "block_times": None if found.times is None else _describe_times(found.times),
        "search": None if found.search is None else _describe_search(found, request, stages),
        "command": None if found.search is None else _command(request, found.search.proposal.spec),
        "run": {
            "commit": commit(),
            "versions": versions_of(("torch", "timm", "torchvision", "numpy", "pillow")),
            "machine": machine(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_rss_mib": _peak_rss_mib(),
        },
    }


@dataclass(frozen=True)
class Findings:
    """What the stages found; times and search are None for a ViT that the family cannot take over."""

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

    def __init__(self, parts: VitParts, chosen: Chosen, request: Request) -> None:
        self.parts, self.chosen, self.target = parts, chosen, request.target
        self.macs = macs_of(parts)
        factor = 1 if parts.device.type == "cpu" else _GPU_FACTOR
        per_image = self.macs * _PASSES_PER_PROBED_LAYER * parts.depth
        affordable = max(_LEAST_IMAGES, min(_MOST_IMAGES, round(factor * _PROBE_MACS / per_image)))
        # the other half judges what the search found on this one
        half = max(1, (chosen.count + 1) // 2)
        self.probe_images = min(request.probe_images or affordable, half if chosen.count > 1 else 1)
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
                measured = measure_models(parts, model, self.batch, step)
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


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no GPU here; leave it out, or use --device cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def _unconvertible(parts: VitParts) -> str:
    """Why the family cannot take over this ViT, or ""."""
    try:
        SkipVisionTransformer.from_vit(parts.model, Spec(static=(0,)))
    except ValueError as error:
        return str(error)
    return ""


def _notes(origin: Origin, chosen: Chosen, found: Findings) -> list[str]:
    """What a reader must know before believing any figure."""
    notes = []
    if origin.weights_from.startswith("random"):
        notes.append("The weights are random: nothing here says anything about a trained model. Give --weights.")
    if chosen.note:
        notes.append(f"Accuracy is not shown: {chosen.note}.")
    if chosen.count < 64:
        notes.append(f"Only {chosen.count} pictures: figures that compare pictures are rough below 64.")
    if found.unconvertible:
        notes.append(f"No spec is proposed, and no block was timed: {found.unconvertible}.")
    if found.search is not None and not found.search.reached:
        notes.append("No spec that was tried reaches the target speed; the fastest one is shown.")
    return notes


def _command(request: Request, spec: Spec) -> str:
    """What converts the model to a spec."""
    words = ["skipvit-convert", request.source, request.images, "--spec", str(spec)]
    if request.weights is not None:
        words += ["--weights", str(request.weights)]
    if request.pretrained:
        words.append("--pretrained")
    for name, value in request.model_args.items():
        words += ["--model-arg", f"{name}={json.dumps(value)}"]
    return shlex.join(words)


def _describe_model(origin: Origin, parts: VitParts, request: Request, macs: int) -> dict[str, Any]:
    return {
        "source": request.source,
        "architecture": origin.architecture,
        "weights_from": origin.weights_from,
        "depth": parts.depth,
        "heads": parts.heads,
        "grid": list(parts.grid),
        "prefix_tokens": parts.prefix,
        "class_token": parts.has_class_token,
        "global_pool": parts.global_pool,
        "parameters": count_params(parts.model),
        "macs": macs,
    }


def _describe_times(times: BlockTimes) -> dict[str, Any]:
    return {
        "clock": times.clock,
        "batch": times.batch,
        "embed": times.embed,
        "head": times.head,
        "blocks": [{"kind": k, "grid": list(grid), "seconds": s} for (k, grid), s in times.blocks.items()],
        "pyramids": [{"before": list(b), "after": list(a), "seconds": s} for (b, a), s in times.pyramids.items()],
    }


def _describe_search(found: Findings, request: Request, stages: Stages) -> dict[str, Any]:
    assert found.search is not None
    assert found.measured is not None
    original, proposed = found.measured
    count, cost = found.others or (0, None)
    return {
        "target": request.target,
        "reached": found.search.reached,
        "evaluations": found.search.evaluations,
        "images": stages.probe_images,
        "curve": [_describe_candidate(candidate) for candidate in found.search.curve],
        "proposal": {
            **_describe_candidate(found.search.proposal),
            "other_images": count,
            "cost_on_other_images": _jsonable(cost),
            "measured_speed": original / proposed,
            "seconds": {"original": original, "proposal": proposed},
        },
    }


def _describe_candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "spec": str(candidate.spec),
        "predicted_speed": candidate.speed,
        "cost": _jsonable(candidate.cost),
    }


def _peak_rss_mib() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 if sys.platform != "darwin" else 1024**2)  # macOS counts bytes


def _jsonable(value: Any) -> Any:
    """A dataclass of numbers and tensors as JSON takes it; mean maps, which are large, are left out."""
    if isinstance(value, Tensor):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.name != "mean_map"]
        return {name: _jsonable(getattr(value, name)) for name in names}
    return value
