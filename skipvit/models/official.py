"""The weights that the authors of SkipAt (arXiv 2301.02240) released, as weights of our models, and back.

Their files are written by timm 0.5.4's ViT with six parametric functions beside the blocks, which Φ of blocks 3 to 8
takes up here. Those blocks still hold the attention and the norm before it that they never run: dead weights, dropped.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipvit.weights import WeightsError, check_finite, listed

# Under which keys a released file may hold its weights, the first choice first.
CONTAINERS = ("model", "state_dict_ema", "state_dict")
HEAD_DIM = 64  # of every released model

_DEPTH = 12
_FIRST_SKIPPED = 3  # param_1 is Φ of this block, param_6 that of the last
_PHI_COUNT = 6
_EXPANSION, _KERNEL, _ECA_KERNEL, _MLP_RATIO = 2, 5, 3, 4
_NAMES = {192: "skipat_tiny_patch16_224", 384: "skipat_small_patch16_224", 768: "skipat_base_patch16_224"}
# A part of Φ in the released files, and here.
_PHI_PARTS = {"linear1.0": "fc1", "dwconv.0": "dwconv", "linear2.0": "fc2", "eca.conv": "eca"}
_PARAM = re.compile(r"param_(\d+)\.(linear1\.0|dwconv\.0|linear2\.0|eca\.conv)\.(weight|bias)")
_PHI = re.compile(r"blocks\.(\d+)\.phi\.(fc1|dwconv|fc2|eca)\.(weight|bias)")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Released:
    """A released file as a model of ours: ``create_model(architecture, **model_args)`` takes ``state``, strictly."""

    architecture: str
    model_args: dict[str, Any]
    state: dict[str, Tensor]
    renamed: dict[str, str]  # their name to ours, where the two differ
    dropped: dict[str, int]  # their name of a dead weight to its number of values

    @property
    def dropped_params(self) -> int:
        """Values in all dead weights."""
        return sum(self.dropped.values())


@dataclass(frozen=True)
class _Sizes:
    """What a file does not say in words; dim, heads, patch side, grid side and classes."""

    dim: int
    heads: int
    patch: int
    grid: int
    classes: int

    @property
    def img_size(self) -> int:
        return self.patch * self.grid


def is_official(state: Mapping[str, Tensor]) -> bool:
    """Whether weights carry the names of the released files."""
    return any(_PARAM.fullmatch(name) for name in state)


def from_official(state: Mapping[str, Tensor], source: str, num_heads: int | None = None) -> Released:
    """Maps a released state dict, of any width, square grid, patch size and number of classes, to a model of ours.

    Args:
        source: the file, for messages.
        num_heads: heads of each attention; a file does not say, and embed_dim / 64 is taken unless given.

    Raises:
        WeightsError: anything in it is unknown, missing, of the wrong shape or kind, or not finite.
    """
    sizes = _sizes(state, source, num_heads)
    live, dead = _layout(sizes)
    _check(state, live, dead, source)
    check_finite(state, source)
    renamed = {name: _our_name(name) for name in live}
    return Released(
        architecture=_NAMES.get(sizes.dim, _NAMES[192]),
        model_args=_model_args(sizes),
        state={ours: state[name] for name, ours in renamed.items()},
        renamed={name: ours for name, ours in renamed.items() if name != ours},
        dropped={name: state[name].numel() for name in dead if name in state},
    )


def to_official(state: Mapping[str, Tensor], dead: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Maps the state dict of a model that ``from_official`` describes back to the released layout.

    Args:
        dead: values of the dead weights by their released names; zeros where it has none.

    Raises:
        WeightsError: it is no such model's.
    """
    live = {_their_name(name): tensor for name, tensor in state.items()}
    sizes = _sizes(live, "the model", num_heads=1)
    expected, unused = _layout(sizes)
    _check(live, expected, {}, "the model")
    like = live["pos_embed"]
    given = dead or {}
    _check(given, {}, unused, "dead")
    filled = {name: given.get(name, torch.zeros(shape, dtype=like.dtype)) for name, shape in unused.items()}
    return live | filled


def _our_name(name: str) -> str:
    if found := _PARAM.fullmatch(name):
        return f"blocks.{_FIRST_SKIPPED - 1 + int(found[1])}.phi.{_PHI_PARTS[found[2]]}.{found[3]}"
    return name


def _their_name(name: str) -> str:
    if found := _PHI.fullmatch(name):
        part = next(theirs for theirs, ours in _PHI_PARTS.items() if ours == found[2])
        return f"param_{int(found[1]) - _FIRST_SKIPPED + 1}.{part}.{found[3]}"
    return name


def _sizes(state: Mapping[str, Tensor], source: str, num_heads: int | None) -> _Sizes:
    wanted = {"patch_embed.proj.weight": 4, "pos_embed": 3, "head.weight": 2}
    lacking = [name for name, ndim in wanted.items() if name not in state or state[name].ndim != ndim]
    if lacking:
        raise WeightsError(f"{source} is not a released SkipAt model: it has no {listed(lacking)} of the usual kind")
    dim, patch = state["patch_embed.proj.weight"].shape[0], state["patch_embed.proj.weight"].shape[-1]
    tokens, classes = state["pos_embed"].shape[1], state["head.weight"].shape[0]
    grid = math.isqrt(max(tokens - 1, 0))
    if tokens != grid * grid + 1 or grid < 1:
        raise WeightsError(f"{source}: pos_embed has {tokens} tokens, which are not a square grid and a class token")
    if min(dim, patch, classes) < 1:
        raise WeightsError(f"{source} has embed_dim {dim}, patches of {patch} pixels and {classes} classes; needs 1 up")
    heads = num_heads if num_heads is not None else dim // HEAD_DIM
    if heads < 1 or dim % heads or (num_heads is None and dim % HEAD_DIM):
        raise WeightsError(
            f"{source} has embed_dim {dim}, which cannot be shared among {num_heads} heads"
            if num_heads is not None
            else f"{source} has embed_dim {dim}, no multiple of the released models' head size {HEAD_DIM}; "
            "give the number of heads with --num-heads"
        )
    return _Sizes(dim, heads, patch, grid, classes)


def _model_args(sizes: _Sizes) -> dict[str, Any]:
    """What differs from the entry of the registry."""
    args: dict[str, Any] = {"num_classes": sizes.classes}
    if sizes.img_size != 224:
        args["img_size"] = sizes.img_size
    if sizes.patch != 16:
        args["patch_size"] = sizes.patch
    if sizes.dim not in _NAMES:
        args["embed_dim"] = sizes.dim
    if sizes.dim not in _NAMES or sizes.heads != sizes.dim // HEAD_DIM:
        args["num_heads"] = sizes.heads
    return args


def _layout(sizes: _Sizes) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Names and shapes of a released file's live weights and of its dead ones."""
    d, hidden = sizes.dim, sizes.dim * _EXPANSION
    live: dict[str, Shape] = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, sizes.grid**2 + 1, d),
        "patch_embed.proj.weight": (d, 3, sizes.patch, sizes.patch),
        "patch_embed.proj.bias": (d,),
    }
    dead: dict[str, Shape] = {}
    for index in range(_DEPTH):
        skipped = _FIRST_SKIPPED <= index < _FIRST_SKIPPED + _PHI_COUNT
        block = f"blocks.{index}"
        attention = dead if skipped else live
        attention |= _affine(f"{block}.norm1", (d,)) | _affine(f"{block}.attn.qkv", (3 * d, d))
        attention |= _affine(f"{block}.attn.proj", (d, d))
        live |= _affine(f"{block}.norm2", (d,)) | _affine(f"{block}.mlp.fc1", (d * _MLP_RATIO, d))
        live |= _affine(f"{block}.mlp.fc2", (d, d * _MLP_RATIO))
    for k in range(1, _PHI_COUNT + 1):
        live |= _affine(f"param_{k}.linear1.0", (hidden, d))
        live |= _affine(f"param_{k}.dwconv.0", (hidden, 1, _KERNEL, _KERNEL))
        live |= _affine(f"param_{k}.linear2.0", (d, hidden))
        live[f"param_{k}.eca.conv.weight"] = (1, 1, _ECA_KERNEL)
    return live | _affine("norm", (d,)) | _affine("head", (sizes.classes, d)), dead


def _affine(name: str, weight: Shape) -> dict[str, Shape]:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _check(state: Mapping[str, Tensor], live: Mapping[str, Shape], dead: Mapping[str, Shape], source: str) -> None:
    shapes = {**live, **dead}
    wrong = [
        f"{name} {tuple(tensor.shape)} in place of {shapes[name]}"
        for name, tensor in state.items()
        if name in shapes and tuple(tensor.shape) != shapes[name]
    ]
    complaints = {
        "missing": [name for name in live if name not in state],
        "unknown": [name for name in state if name not in shapes],
        "of another shape": wrong,
        "not floating-point": [name for name, tensor in state.items() if not tensor.is_floating_point()],
    }
    found = [f"{what}: {listed(names)}" for what, names in complaints.items() if names]
    if found:
        raise WeightsError(f"{source} is not a released SkipAt model; {'; '.join(found)}")
