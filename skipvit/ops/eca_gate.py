"""``skipvit::eca_gate``: the channel gate of Efficient Channel Attention, as SkipAt's Φ uses it.

mean over tokens -> 1-d convolution along the channels -> sigmoid. The op returns the gate alone, so that an engine can
fuse the product with what follows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


def eca_gate_reference(x: Tensor, weight: Tensor) -> Tensor:
    """The op in plain PyTorch; see `eca_gate`."""
    pooled = x.mean(dim=1, keepdim=True)  # (B, n, C) -> (B, 1, C)
    return torch.sigmoid(F.conv1d(pooled, weight, padding=weight.shape[-1] // 2))


@torch.library.custom_op("skipvit::eca_gate", mutates_args=())
def eca_gate(x: Tensor, weight: Tensor) -> Tensor:
    """Channel gate in (0, 1) of the tokens it is given.

    Args:
        x: patch tokens (B, n, C), any floating dtype.
        weight: (1, 1, k) with k odd, dtype of x; no bias.

    Returns:
        (B, 1, C), dtype of x.

    Raises:
        ValueError: x or the kernel has another shape.
    """
    _check(x, weight)
    return eca_gate_reference(x, weight)


def _check(x: Tensor, weight: Tensor) -> None:
    if x.ndim != 3:
        raise ValueError(f"eca_gate needs tokens (B, n, C), got {tuple(x.shape)}")
    if weight.ndim != 3 or tuple(weight.shape[:2]) != (1, 1) or weight.shape[2] % 2 == 0:
        raise ValueError(f"eca_gate needs a weight of shape (1, 1, k) with k odd, got {tuple(weight.shape)}")


@eca_gate.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    _check(x, weight)
    return x.new_empty((x.shape[0], 1, x.shape[2]))


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    x, weight = inputs
    ctx.save_for_backward(x, weight, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, weight, gate = ctx.saved_tensors
    pooled = x.mean(dim=1, keepdim=True)  # again from x, so that second derivatives see where it came from
    grad_conv = grad * gate * (1 - gate)
    grad_pooled, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad_conv,
        pooled,
        weight,
        None,
        stride=[1],
        padding=[weight.shape[-1] // 2],
        dilation=[1],
        transposed=False,
        output_padding=[0],
        groups=1,
        output_mask=[ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
    )
    if grad_pooled is not None:
        grad_pooled = (grad_pooled / x.shape[1]).expand(-1, x.shape[1], -1)  # (B, 1, C) -> (B, n, C)
    return grad_pooled, grad_weight


eca_gate.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.skipvit.eca_gate)
def _flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * x[0] * x[2] * weight[2]
