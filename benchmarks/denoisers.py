"""Speed of Uformer and SkipAt-Uformer on one CPU core, in PyTorch and as our exports, measured side by side.

PyTorch gets float images prepared outside the time; our graph starts from uint8 and ends in uint8, all within the time.
Both ratios of a row are paired within rounds: over PyTorch's run of the same model, and over the Uformer in the row's
own form. images/s on n cores is about n * 1000 / cpu_ms_per_image.
"""

import statistics

import numpy as np
import torch
from torch import nn

from benchmarks.families import EAGER, OURS
from benchmarks.timing import Array, Candidate, interleave, onnx_run, torch_run
from benchmarks.turns import speedup
from export.denoising import denoiser_graph
from export.deploy_denoiser import DeployDenoiser
from skipvit.complexity import count_macs, count_params
from skipvit.models import create_model
from skipvit.transforms import Pixels

PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")
_FAMILIES = ("uformer", "skipat_uformer")
# GMACs at 256 px as the papers' figure and table give them (arXiv 2106.03106, 2301.02240).
_PUBLISHED = {
    ("uformer", "tiny"): 12.0,
    ("uformer", "small"): 43.86,
    ("uformer", "base"): 89.46,
    ("skipat_uformer", "tiny"): 11.0,
    ("skipat_uformer", "small"): 39.0,
    ("skipat_uformer", "base"): 79.0,
}
_PUBLISHED_SIDE = 256
_MAX_DRIFT = 0.05  # grey levels of 255; both compute in float32
Key = tuple[str, str]  # family, form


def measure(size: str, side: int, batch: int, rounds: int) -> list[dict[str, object]]:
    """Rows for one size of model on square pictures of ``side`` pixels, ``batch`` at a time.

    Raises:
        RuntimeError: two forms of one model disagree; the figures would compare different things.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    models = {family: _random(create_model(f"{family}_{size}")) for family in _FAMILIES}
    candidates = _candidates(models)
    pictures = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    drift = {family: _drift(family, candidates, pictures) for family in _FAMILIES}
    times = interleave(candidates, pictures, rounds, f"{size} {side} px batch {batch}")
    sample = torch.zeros(1, 3, side, side)
    return [
        {
            "model": f"{family}_{size}",
            "form": form,
            "side_px": side,
            "batch": batch,
            "precision": "fp32",
            "params_m": round(count_params(models[family]) / 1e6, 3),
            "gmacs": round(count_macs(models[family], sample) / 1e9, 3),
            "published_gmacs": _PUBLISHED.get((family, size), "") if side == _PUBLISHED_SIDE else "",
            "cpu_ms_per_image": round(statistics.median(times[family, form]), 2),
            "images_per_s_per_core": round(1e3 / statistics.median(times[family, form]), 3),
            "speedup_over_pytorch": round(speedup(times[family, EAGER], times[family, form]), 3),
            "speedup_over_uformer_same_form": round(speedup(times["uformer", form], times[family, form]), 3),
            "max_drift_levels": f"{drift[family]:.1e}",
            "rounds": rounds,
        }
        for family, form in times
    ]


def _random(model: nn.Module) -> nn.Module:
    """A fresh denoiser returns its input, whatever is inside; with a random last convolution all of it counts."""
    for parameter in model.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.02)
    return model.eval()


def _candidates(models: dict[str, nn.Module]) -> dict[Key, Candidate]:
    found: dict[Key, Candidate] = {}
    for family, model in models.items():
        found[family, EAGER] = Candidate(_images, torch_run(model))
        graph = denoiser_graph(DeployDenoiser(model), _multiple(model), 20).SerializeToString()
        found[family, OURS] = Candidate(lambda pictures: pictures, onnx_run(graph, "denoised"))
    return found


def _multiple(model: nn.Module) -> int:
    multiple = model.multiple
    assert isinstance(multiple, int)
    return multiple


def _images(pictures: Pixels) -> Array:
    """Pictures (B, H, W, 3) uint8 as the images (B, 3, H, W) float32 in 0..1 that a model takes."""
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), dtype=np.float32) / 255


def _drift(family: str, candidates: dict[Key, Candidate], pictures: Pixels) -> float:
    """Largest distance of our export's rounded pixels from PyTorch's, beyond the rounding itself; grey levels."""
    eager, ours = candidates[family, EAGER], candidates[family, OURS]
    expected = eager.run(eager.prepare(pictures)).transpose(0, 2, 3, 1).clip(0, 1) * 255
    distance = float(np.abs(ours.run(pictures) - expected).max()) - 0.5
    if not distance <= _MAX_DRIFT:
        raise RuntimeError(
            f"our export of {family} is {distance:.2f} grey levels from PyTorch; it is not the same model"
        )
    return max(0.0, distance)
