"""Images a second on a GPU: the ViT and every variant of one size, picture size, batch and dtype, in turns.

All go through torch.compile and are replayed as CUDA graphs; the ViT has PyTorch's fused attention. Variants run in two
forms, with our kernels and as torch.compile alone makes them. Before anything is timed, logits are compared with those
of the same weights in float64, computed eagerly.
"""

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.families import FORMULAS, KERNELS
from benchmarks.gpu_clock import Clock
from benchmarks.gpu_forms import build, in_form
from benchmarks.turns import in_turns, speedup
from trt_plugins.cubins import CompileError
from trt_plugins.on_device import DeviceError

PACKAGES = ("torch", "triton", "timm", "cuda-bindings", "nvidia-cudnn-cu13", "nvidia-cublas", "numpy")
KEYS = ("model", "form", "resolution_px", "batch", "dtype", "compile_mode")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Largest difference of logits over the largest logit. A wrong kernel is off by a whole; roundings of 12 layers add up.
_LIMITS = {"bf16": 5e-2, "fp16": 1e-2, "fp32": 1e-3}
_COMPARED = 4  # images
Key = tuple[str, str]  # family, form


@dataclass(frozen=True)
class Setting:
    """What all models of one comparison share.

    Attributes:
        shape: size and patch as a preset's name ends, such as ``small_patch16_224``.
        side: of the pictures in pixels; the presets of 224 px are built for it.
    """

    shape: str
    side: int
    batch: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.shape.split('_')[0]} {self.side} px batch {self.batch} {self.dtype}"


def plan(sizes: Sequence[str], sides: Sequence[int], batches: Sequence[int], dtypes: Sequence[str]) -> list[Setting]:
    """All settings, the first of every argument first, and then those that differ from that in little."""
    order = [
        (i + j + k + m, Setting(f"{size}_patch16_224", side, batch, dtype))
        for i, size in enumerate(sizes)
        for j, side in enumerate(sides)
        for k, batch in enumerate(batches)
        for m, dtype in enumerate(dtypes)
    ]
    return [setting for _, setting in sorted(order, key=lambda ranked: ranked[0])]


SMOKE = [Setting("micro_patch2_8", 8, 2, "fp32")]


def keys(families: Collection[str], forms: Collection[str]) -> list[Key]:
    """What is timed in a setting. The ViT calls no op of ours: it has one form, that of torch.compile alone."""
    return [(family, form) for family in families for form in forms if family != "vit"] + [("vit", FORMULAS)]


def measure(
    setting: Setting, clock: Clock, rounds: int, mode: str, families: Collection[str], forms: Collection[str]
) -> tuple[list[dict[str, object]], list[str]]:
    """Rows of one setting, and what went wrong: a model that fails, or whose logits are wrong, is left out.

    Args:
        mode: of torch.compile, or the name of another backend than its own after ``backend:``.
        families: of benchmarks.families.FAMILIES; the ViT is always among them.
        forms: of benchmarks.families.GPU_FORMS' values.
    """
    errors: dict[Key, float] = {}
    readings: dict[Key, Callable[[], float]] = {}
    failures: list[str] = []
    with torch.inference_mode():
        images = images_of(setting, clock.device)
        for key in tqdm(keys(families, forms), desc=f"{setting}: compiling", unit="model", leave=False):
            try:
                errors[key], readings[key] = _prepared(key, setting, images, clock, mode)
            except (RuntimeError, DeviceError, CompileError) as error:
                failures.append(f"{setting}: {key[0]} by {key[1]}: {error}")
        if ("vit", FORMULAS) not in readings:
            return [], failures
        times = in_turns(readings, rounds, str(setting))
    return [_row(setting, key, times, errors[key], mode) for key in times], failures


def _prepared(key: Key, setting: Setting, images: Tensor, clock: Clock, mode: str) -> tuple[float, Callable[[], float]]:
    """The error of a model's logits, and its clock."""
    expected = _model(key[0], setting, images.device).double()(images[:_COMPARED].double())
    run = ready(key, setting, images, mode)
    error = float((run()[:_COMPARED].double() - expected).abs().max() / expected.abs().max())
    if not error <= _LIMITS[setting.dtype]:
        raise RuntimeError(f"its logits are {error:.1e} of their size away from float64's")
    return error, clock.readings(run)


def images_of(setting: Setting, device: torch.device) -> Tensor:
    """Random images in float32."""
    chance = torch.Generator(device).manual_seed(0)
    return torch.randn(setting.batch, 3, setting.side, setting.side, generator=chance, device=device)


def ready(key: Key, setting: Setting, images: Tensor, mode: str) -> Callable[[], Tensor]:
    """A call that gives a compiled model's logits; the first one compiles it, for this batch size alone."""
    (family, form), dtype = key, DTYPES[setting.dtype]
    model = _compiled(_model(family, setting, images.device).to(dtype), mode)
    images = images.to(dtype)

    def run() -> Tensor:
        with in_form(form, images.device):
            return model(images)

    return run


def _compiled(model: nn.Module, mode: str) -> Any:
    torch._dynamo.config.recompile_limit = 64  # the families' forward passes are the same code, compiled for each
    # With fullgraph, what cannot be compiled whole is an error, and not slow.
    if mode.startswith("backend:"):
        return torch.compile(model, dynamic=False, fullgraph=True, backend=mode.removeprefix("backend:"))
    return torch.compile(model, dynamic=False, fullgraph=True, mode=mode)


def _model(family: str, setting: Setting, device: torch.device) -> nn.Module:
    own = None if setting.shape.startswith("micro") else setting.side
    return build(f"{family}_{setting.shape}", own, device)


def vit_key_of(setting: Setting, mode: str) -> tuple[str, ...]:
    """What tells the ViT's row of a setting from others: its values of `KEYS`."""
    return _key_of(setting, ("vit", FORMULAS), mode)


def _key_of(setting: Setting, key: Key, mode: str) -> tuple[str, ...]:
    size = setting.shape.split("_")[0]
    return f"{key[0]}_{size}", key[1], str(setting.side), str(setting.batch), setting.dtype, mode


def _row(
    setting: Setting, key: Key, times: Mapping[Key, Sequence[float]], error: float, mode: str
) -> dict[str, object]:
    (family, form), own = key, times[key]
    alone = times.get((family, FORMULAS)) if form == KERNELS else None
    return {
        **dict(zip(KEYS, _key_of(setting, key, mode), strict=True)),
        "images_per_s": round(setting.batch / statistics.median(own), 1),
        "ms_per_batch": round(1e3 * statistics.median(own), 4),
        "speedup_over_vit": round(speedup(times["vit", FORMULAS], own), 3),
        "speedup_over_torch_compile_alone": round(speedup(alone, own), 3) if alone else "",
        "max_logit_error": f"{error:.1e}",
        "rounds": len(own),
    }
