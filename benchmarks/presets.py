"""Parameters and multiply-accumulates of every preset, counted on the model and by closed forms, side by side.

d channels, h heads, n patch tokens of a block, N = n + 1 with the class token, k the side of Φ's convolution, m the
tokens that a pyramid leaves. What one picture costs:

    patches        3 p² d n
    attention      4 N d² + 2 N² d         parameters 4 d² + 4 d, and 2 d of norm1
    static         2 N d² + N² d           parameters 2 d² + 2 d + h N², and 2 d of norm1      (DGSSA)
    Φ              4 n d² + 2 k² n d + 3 d parameters 4 d² + (2 k² + 5) d + 3, no norm1        (SkipAt)
    MLP            8 N d²                  parameters 8 d² + 5 d, and 2 d of norm2
    n -> m tokens  m n d                   parameters m n                                      (GLAD)
    head           d C                     parameters d C + C, and 2 d of the last norm
"""

from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.families import FAMILIES
from skipvit.complexity import count_macs, count_params
from skipvit.models import create_model
from skipvit.models.spec import Spec

_SHAPES = ["micro_patch2_8"] + [f"{size}_patch16_{px}" for size in ("tiny", "small", "base") for px in (224, 384)]


@dataclass(frozen=True)
class Shape:
    """What the closed forms need to know of a ViT with one class token and ``depth`` blocks of MLP ratio 4."""

    dim: int
    depth: int
    heads: int
    patch: int
    grid: tuple[int, int]
    classes: int
    phi_kernel: int


def names() -> list[str]:
    """The plain ViTs and every preset of this package, those of one shape together."""
    return [f"{family}_{shape}" for shape in _SHAPES for family in FAMILIES]


def table(chosen: list[str] | None = None) -> list[dict[str, object]]:
    """A row a preset: what was counted, what the closed forms say, and whether the two are equal, to the last unit."""
    return [_row(name) for name in tqdm(chosen or names(), desc="presets", unit="model", leave=False)]


def _row(name: str) -> dict[str, object]:
    with torch.device("meta"):  # shapes alone: no weights are made and nothing is computed
        model: Any = create_model(name).eval()
        params = count_params(model)
        macs = count_macs(model, torch.zeros(1, *model.pretrained_cfg["input_size"]))
    spec = getattr(model, "spec", Spec())
    shape = Shape(
        dim=model.embed_dim,
        depth=len(model.blocks),
        heads=model.blocks[-1].attn.num_heads,
        patch=model.patch_embed.patch_size[0],
        grid=model.patch_embed.grid_size,
        classes=model.num_classes,
        phi_kernel=model.choices.phi_kernel_size if spec.skip else 5,
    )
    by_hand = params_by_hand(shape, spec), macs_by_hand(shape, spec)
    return {
        "name": name,
        "spec": str(spec) or "-",
        "params": params,
        "params_by_hand": by_hand[0],
        "gmacs": f"{macs / 1e9:.4f}",
        "gmacs_by_hand": f"{by_hand[1] / 1e9:.4f}",
        "macs_saved_percent": f"{100 * (1 - macs / macs_by_hand(shape, Spec())):.1f}",
        "equal": "yes" if (params, macs) == by_hand else "NO",
    }


def params_by_hand(shape: Shape, spec: Spec) -> int:
    """Parameters of a ViT of ``shape`` under ``spec``; see the head of this file."""
    d, n0 = shape.dim, shape.grid[0] * shape.grid[1]
    total = 3 * shape.patch**2 * d + d + d + (n0 + 1) * d  # patches, class token, positions
    total += 2 * d + d * shape.classes + shape.classes
    before = n0
    for index, n in enumerate(_patch_tokens(shape, spec)):
        total += n * before if n != before else 0
        kind = spec.kind(index)
        if kind == "skip":
            total += 4 * d * d + (2 * shape.phi_kernel**2 + 5) * d + 3
        elif kind == "static":
            total += 2 * d * d + 2 * d + shape.heads * (n + 1) ** 2 + 2 * d
        else:
            total += 4 * d * d + 4 * d + 2 * d
        total += 8 * d * d + 5 * d + 2 * d
        before = n
    return total


def macs_by_hand(shape: Shape, spec: Spec) -> int:
    """Multiply-accumulates a picture of a ViT of ``shape`` under ``spec``; see the head of this file."""
    d, n0 = shape.dim, shape.grid[0] * shape.grid[1]
    total = 3 * shape.patch**2 * d * n0 + d * shape.classes
    before = n0
    for index, n in enumerate(_patch_tokens(shape, spec)):
        kind, tokens = spec.kind(index), n + 1
        if n != before:
            total += n * before * d * (2 if kind == "skip" else 1)  # what a skipped block reuses shrinks as well
        if kind == "skip":
            total += 4 * n * d * d + 2 * shape.phi_kernel**2 * n * d + 3 * d
        elif kind == "static":
            total += 2 * tokens * d * d + tokens**2 * d
        else:
            total += 4 * tokens * d * d + 2 * tokens**2 * d
        total += 8 * tokens * d * d
        before = n
    return total


def _patch_tokens(shape: Shape, spec: Spec) -> list[int]:
    return [h * w for h, w in spec.grids(shape.depth, shape.grid)]
