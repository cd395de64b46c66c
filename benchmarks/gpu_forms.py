"""A model as it is timed on a GPU: matrices folded, one dtype, compiled by torch, with our kernels or without.

Without them every op is its plain formula, which torch.compile sees through and fuses as it can.
"""

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from benchmarks.families import KERNELS
from export.constant_matrices import ConstantAttention, ConstantPyramid, foldable
from skipvit import ops
from skipvit.layers.static_attention import StaticAttention
from skipvit.layers.token_pyramid import TokenPyramid
from skipvit.models import create_model
from trt_plugins.torch_kernels import kernels_in_use

# Whoever calls an op has its name from skipvit.ops.
_CALLERS = (
    "export.constant_matrices",
    "skipvit.layers.leff",
    "skipvit.layers.phi",
    "skipvit.layers.space_time",
    "skipvit.layers.static_attention",
    "skipvit.layers.token_pyramid",
)


def build(name: str, side: int | None, device: torch.device) -> nn.Module:
    """A preset with random weights in float32, as it is deployed: constant matrices have no softmax at run time."""
    torch.manual_seed(0)
    model = (create_model(name) if side is None else create_model(name, img_size=side)).eval().requires_grad_(False)
    _make_every_branch_count(model)
    for parent in list(model.modules()):
        for part, child in list(parent.named_children()):
            if isinstance(child, StaticAttention) and foldable(child):
                setattr(parent, part, ConstantAttention(child))
            elif isinstance(child, TokenPyramid) and foldable(child):
                setattr(parent, part, ConstantPyramid(child))
    return model.to(device)


def _make_every_branch_count(model: nn.Module) -> None:
    """Larger weights than a training starts from, with which logits hardly depend on the blocks, and errors hide."""
    for name, parameter in model.named_parameters():
        if name.endswith("logits"):
            parameter.add_(torch.randn_like(parameter))
        elif parameter.ndim > 1 and "embed" not in name:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def in_form(form: str, device: torch.device) -> AbstractContextManager[None]:
    """Within it, models are compiled, and their graphs captured, in one of GPU_FORMS."""
    return kernels_in_use(device.type) if form == KERNELS else formulas()


@contextmanager
def formulas() -> Iterator[None]:
    """Within it, layers call the ops' plain formulas by the ops' names."""
    changed = []
    try:
        for caller in map(importlib.import_module, _CALLERS):
            for name in set(ops.__all__) & set(vars(caller)):
                changed.append((caller, name, getattr(caller, name)))
                setattr(caller, name, getattr(ops, f"{name}_reference"))
        yield
    finally:
        for caller, name, op in changed:
            setattr(caller, name, op)
