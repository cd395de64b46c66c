"""Speed of ViT and of the family in several forms on one CPU core, measured side by side.

The plain forms get their input normalised beforehand, outside the time; skipvit's graph starts from uint8 and its
normalisation is inside the time. Both ratios of a row are paired within rounds: over timm's plain export of the ViT,
and over the ViT in the row's own form, which has had the same rewrites. images/s on n cores is about
n * 1000 / cpu_ms_per_image.
"""

import statistics
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from benchmarks.families import EAGER, FAMILIES, FORMS, INT8, OURS, PLAIN
from benchmarks.timing import (
    Array,
    Candidate,
    checked_drift,
    interleave,
    logits_of,
    onnx_run,
    torch_run,
)
from benchmarks.turns import speedup
from export.deploy import DeployClassifier, Normalise
from export.graph import LOGITS, to_graph
from export.quantisation import quantise
from skipvit.complexity import count_macs, count_params
from skipvit.models import create_model
from skipvit.transforms import Pixels, Preprocessing

PACKAGES = ("torch", "timm", "onnx", "onnxruntime", "numpy")
_CALIBRATION = 16  # pictures of noise: speed does not depend on them
Key = tuple[str, str]  # family, form


def measure(
    size: str,
    resolution: int,
    batches: Sequence[int],
    rounds: int,
    families: Collection[str] = tuple(FAMILIES),
    forms: Collection[str] = tuple(FORMS.values()),
) -> list[dict[str, object]]:
    """Rows for one size ("tiny", "small", "base") at one resolution in pixels.

    Args:
        families: a ratio over the ViT needs ``vit`` among them.
        forms: values of `FORMS`; the plain export is made of the ViT alone.

    Raises:
        RuntimeError: two forms of one model disagree; the figures would compare different things.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if not families or not forms or (set(forms) == {PLAIN} and "vit" not in families):
        raise RuntimeError("nothing to run: timm's export is made of the ViT alone; name more families or forms")
    models = {f: create_model(f"{f}_{size}_patch16_224", img_size=resolution).eval() for f in families}
    costs = _costs(models, resolution)
    rows: list[dict[str, object]] = []
    with TemporaryDirectory() as scratch:
        candidates = _candidates(models, resolution, forms, Path(scratch))
        for batch in batches:
            pictures = _noise(batch, resolution)
            drift = _drift(models, candidates, pictures)
            times = interleave(candidates, pictures, rounds, f"{size} {resolution} px batch {batch}")
            rows += [
                {
                    "model": f"{family}_{size}_patch16_224",
                    "form": form,
                    "resolution_px": resolution,
                    "batch": batch,
                    "precision": "int8" if form == INT8 else "fp32",
                    **costs[family],
                    **_figures(times, family, form),
                    "max_abs_logit_drift": f"{drift[family, form]:.1e}",
                    "rounds": rounds,
                }
                for family, form in times
            ]
    return rows


def _candidates(
    models: dict[str, nn.Module], resolution: int, forms: Collection[str], scratch: Path
) -> dict[Key, Candidate]:
    preprocessing = Preprocessing(height=resolution, width=resolution)

    def normalised(pictures: Pixels) -> Array:
        return _normalised(pictures, preprocessing)

    found: dict[Key, Candidate] = {}
    for family, model in models.items():
        if EAGER in forms:
            found[family, EAGER] = Candidate(normalised, torch_run(model))
        if PLAIN in forms and family == "vit":
            path = scratch / "vit.onnx"
            _plain_export(model, resolution, path)
            found[family, PLAIN] = Candidate(normalised, onnx_run(str(path)))
        if OURS in forms or INT8 in forms:
            graph = to_graph(DeployClassifier(model, preprocessing), resolution, resolution)
            ours = {OURS: graph} if OURS in forms else {}
            if INT8 in forms:
                ours[INT8] = quantise(graph, _noise(_CALIBRATION, resolution))
            for form, made in ours.items():
                found[family, form] = Candidate(lambda pictures: pictures, onnx_run(made.SerializeToString()))
    return found


def _noise(count: int, resolution: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, resolution, resolution, 3), dtype=np.uint8)


def _normalised(pictures: Pixels, preprocessing: Preprocessing) -> Array:
    """Pictures (B, H, W, 3) uint8 as the images (B, 3, H, W) float32 that a plain model takes."""
    return Normalise(preprocessing)(torch.from_numpy(pictures).permute(0, 3, 1, 2).float()).contiguous().numpy()


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


def _drift(models: dict[str, nn.Module], candidates: dict[Key, Candidate], pictures: Pixels) -> dict[Key, float]:
    """Largest distance of each candidate's logits from PyTorch's."""
    size = Preprocessing(height=pictures.shape[1], width=pictures.shape[2])
    reference = {family: torch_run(model)(_normalised(pictures, size)) for family, model in models.items()}
    return {
        (family, form): checked_drift(
            logits_of(candidate, pictures), reference[family], f"{form} of {family}", int8=form == INT8
        )
        for (family, form), candidate in candidates.items()
    }


def _costs(models: dict[str, nn.Module], resolution: int) -> dict[str, dict[str, object]]:
    sample = torch.zeros(1, 3, resolution, resolution)
    return {
        family: {
            "params_m": round(count_params(model) / 1e6, 3),
            "gmacs": round(count_macs(model, sample) / 1e9, 4),
        }
        for family, model in models.items()
    }


def _figures(times: dict[Key, list[float]], family: str, form: str) -> dict[str, object]:
    """The time of a candidate and its two ratios; a ratio whose baseline was not run is empty."""

    def over(baseline: Key) -> float | str:
        return round(speedup(times[baseline], times[family, form]), 3) if baseline in times else ""

    return {
        "cpu_ms_per_image": round(statistics.median(times[family, form]), 3),
        "speedup_over_timm_export": over(("vit", PLAIN)),
        "speedup_over_vit_same_form": over(("vit", form)),
    }
