"""Speed of the same ViT in several forms on one CPU core, measured side by side.

Every round runs every candidate once, in an order that rotates, on the same pictures; a ratio is the median over
rounds of baseline time over candidate time. Time is this process's CPU time on one thread, which a busy machine
disturbs little; images/s on n cores is about n * 1000 / cpu_ms_per_image. The plain forms get their input normalised
beforehand, outside the time; skipvit's graph starts from uint8 and its normalisation is inside the time.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn
from tqdm import tqdm

from export.deploy import DeployClassifier, Normalise
from export.graph import LOGITS, to_graph
from skipvit.complexity import count_macs, count_params
from skipvit.models import create_model
from skipvit.transforms import Pixels, Preprocessing

PACKAGES = ("torch", "timm", "onnx", "onnxruntime", "numpy")
Array = np.ndarray[Any, Any]
BASELINE = "timm export"
_MAX_DRIFT = 1e-3


def measure(size: str, resolution: int, batches: list[int], rounds: int) -> list[dict[str, object]]:
    """Rows for ViT and SkipAt of one size ("tiny", "small", "base") at one resolution in pixels.

    Raises:
        RuntimeError: two forms of one model disagree; the figures would compare different things.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    names = (f"vit_{size}_patch16_224", f"skipat_{size}_patch16_224")
    models = {name: create_model(name, img_size=resolution).eval() for name in names}
    rows: list[dict[str, object]] = []
    with TemporaryDirectory() as scratch:
        candidates = _candidates(models, resolution, Path(scratch))
        for batch in batches:
            pictures = np.random.default_rng(0).integers(0, 256, (batch, resolution, resolution, 3), dtype=np.uint8)
            drift = _drift(candidates, pictures)
            times = _interleave(candidates, pictures, rounds, f"{size} {resolution} px batch {batch}")
            rows += _rows(models, resolution, batch, times, drift, rounds)
    return rows


@dataclass(frozen=True)
class Candidate:
    """One form of a model: ``prepare`` makes its input from uint8 pictures, untimed; ``run`` gives its logits."""

    prepare: Callable[[Pixels], Array]
    run: Callable[[Array], Array]


Candidates = dict[tuple[str, str], Candidate]


def _candidates(models: dict[str, nn.Module], resolution: int, scratch: Path) -> Candidates:
    preprocessing = Preprocessing(height=resolution, width=resolution)
    normalise = Normalise(preprocessing)

    def normalised(pictures: Pixels) -> Array:
        return normalise(torch.from_numpy(pictures).permute(0, 3, 1, 2).float()).contiguous().numpy()

    found: Candidates = {}
    for name, model in models.items():
        found[name, "PyTorch"] = Candidate(normalised, _torch(model))
        if name.startswith("vit"):
            path = scratch / f"{name}.onnx"
            _plain_export(model, resolution, path)
            found[name, BASELINE] = Candidate(normalised, _session(str(path)))
        graph = to_graph(DeployClassifier(model, preprocessing), resolution, resolution)
        found[name, "skipvit export"] = Candidate(lambda pictures: pictures, _session(graph.SerializeToString()))
    return found


def _torch(model: nn.Module) -> Callable[[Array], Array]:
    def run(images: Array) -> Array:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    return run


def _plain_export(model: nn.Module, resolution: int, path: Path) -> None:
    """What a user gets from torch.onnx.export with its defaults and a dynamic batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, resolution, resolution),),
            path,
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            output_names=[LOGITS],
            external_data=False,
            verbose=False,
        )


def _session(model: str | bytes) -> Callable[[Array], Array]:
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run([LOGITS], {name: images})[0]


def _drift(candidates: Candidates, pictures: Pixels) -> dict[tuple[str, str], float]:
    """Largest distance of each candidate's logits from PyTorch's."""
    logits = {key: candidate.run(candidate.prepare(pictures)) for key, candidate in candidates.items()}
    drift = {key: float(np.abs(logits[key] - logits[key[0], "PyTorch"]).max()) for key in logits}
    for (name, form), distance in drift.items():
        if distance > _MAX_DRIFT:
            raise RuntimeError(f"{form} of {name} is {distance:.1e} away from PyTorch; it is not the same model")
    return drift


def _interleave(
    candidates: Candidates, pictures: Pixels, rounds: int, label: str
) -> dict[tuple[str, str], list[float]]:
    """CPU milliseconds per image of each candidate, a value a round."""
    times: dict[tuple[str, str], list[float]] = {key: [] for key in candidates}
    inputs = {key: candidate.prepare(pictures) for key, candidate in candidates.items()}
    order = list(candidates)
    for round_ in tqdm(range(rounds), desc=label, unit="round", leave=False):
        turn = round_ % len(order)
        for key in order[turn:] + order[:turn]:
            start = time.process_time()
            candidates[key].run(inputs[key])
            times[key].append((time.process_time() - start) * 1e3 / len(pictures))
    return times


def _rows(
    models: dict[str, nn.Module],
    resolution: int,
    batch: int,
    times: dict[tuple[str, str], list[float]],
    drift: dict[tuple[str, str], float],
    rounds: int,
) -> list[dict[str, object]]:
    baseline = times[next(key for key in times if key[1] == BASELINE)]
    sample = torch.zeros(1, 3, resolution, resolution)
    return [
        {
            "model": name,
            "form": form,
            "resolution_px": resolution,
            "batch": batch,
            "precision": "fp32",
            "params_m": round(count_params(models[name]) / 1e6, 3),
            "gmacs": round(count_macs(models[name], sample) / 1e9, 4),
            "cpu_ms_per_image": round(statistics.median(values), 3),
            "speedup_over_timm_export": round(
                statistics.median(b / v for b, v in zip(baseline, values, strict=True)), 3
            ),
            "max_abs_logit_drift": f"{drift[name, form]:.1e}",
            "rounds": rounds,
        }
        for (name, form), values in times.items()
    ]
