"""The part of skipvit-analyze that needs torch: model and pictures in, all figures out as JSON takes them."""

import dataclasses
import json
import resource
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skipvit.checkpoints import CheckpointError
from skipvit.complexity import count_params
from skipvit.models.spec import Spec
from skipvit.origin import Origin, resolve
from skipvit.picture_files import OriginError
from skipvit.provenance import commit, machine, versions_of
from train.analysis_pictures import Chosen, choose_pictures
from train.analysis_stages import Findings, Stages
from train.block_times import BlockTimes
from train.denormals import flushed_denormals
from train.pictures import DataError
from train.spec_search import Candidate
from train.vit_parts import UnfitModel, VitParts

EXPECTED = (OriginError, CheckpointError, DataError, UnfitModel, ValueError)

SCHEMA_VERSION = 1


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
        stages = Stages(parts, chosen, request.target, request.probe_images)
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


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no GPU here; leave it out, or use --device cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


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
