"""``skipvit::token_dwconv_gelu``: depthwise convolution, bias and GELU on token-major features.

The middle of SkipAt's Φ (arXiv 2301.02240) and of Uformer's LeFF. Tokens (B, n, C) are channels-last memory already, so
the convolution sees a view of them, and nothing is transposed.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


def token_dwconv_gelu_reference(x: Tensor, weight: Tensor, bias: Tensor, grid_h: int, grid_w: int) -> Tensor:
    """The op in plain PyTorch; see `token_dwconv_gelu`."""
    return F.gelu(_convolve(x, weight, bias, grid_h, grid_w))


@torch.library.custom_op("skipvit::token_dwconv_gelu", mutates_args=())
def token_dwconv_gelu(x: Tensor, weight: Tensor, bias: Tensor, grid_h: int, grid_w: int) -> Tensor:
    """GELU(depthwise conv(x) + bias) over the patch grid, zero padded to keep its size. GELU is the exact, erf form.

    Args:
        x: patch tokens (B, n, C) in row-major grid order, any floating dtype.
        weight: (C, 1, r, r) with r odd, dtype of x.
        bias: (C,), dtype of x.
        grid_h: rows of the grid.
        grid_w: columns of the grid, grid_h * grid_w = n.

    Returns:
        (B, n, C), dtype of x.

    Raises:
        ValueError: the grid does not hold n tokens, or the kernel does not fit.
    """
    _check(x, weight, bias, grid_h, grid_w)
    return token_dwconv_gelu_reference(x, weight, bias, grid_h, grid_w).contiguous()


def _check(x: Tensor, weight: Tensor, bias: Tensor, grid_h: int, grid_w: int) -> None:
    if x.ndim != 3 or x.shape[1] != grid_h * grid_w:
        raise ValueError(
            f"token_dwconv_gelu got x of shape {tuple(x.shape)} for a {grid_h} x {grid_w} grid; "
            f"it needs (B, {grid_h * grid_w}, C): patch tokens only, no class token"
        )
    if weight.ndim != 4 or weight.shape[1] != 1 or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
        raise ValueError(
            f"token_dwconv_gelu needs a weight of shape (C, 1, r, r) with r odd, got {tuple(weight.shape)}"
        )
    channels = weight.shape[0]
    if x.shape[2] != channels or tuple(bias.shape) != (channels,):
        raise ValueError(
            f"token_dwconv_gelu got {x.shape[2]} channels, a weight for {channels} and a bias of {tuple(bias.shape)}; "
            "the three must agree"
        )


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, grid_h: int, grid_w: int) -> Tensor:
    y = F.conv2d(_as_map(x, grid_h, grid_w), weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return y.permute(0, 2, 3, 1).reshape(x.shape)  # (B, C, H, W) channels-last -> (B, n, C), a view


def _as_map(x: Tensor, grid_h: int, grid_w: int) -> Tensor:
    # (B, n, C) -> (B, C, H, W): a view, in channels-last memory format
    return x.view(x.shape[0], grid_h, grid_w, x.shape[2]).permute(0, 3, 1, 2)


@token_dwconv_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, grid_h: int, grid_w: int) -> Tensor:
    _check(x, weight, bias, grid_h, grid_w)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int, int], output: Tensor) -> None:
    x, weight, bias, ctx.grid_h, ctx.grid_w = inputs
    ctx.save_for_backward(x, weight, bias)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
    # The pre-activation is computed again rather than kept: one depthwise convolution against B*n*C stored values.
    x, weight, bias = ctx.saved_tensors
    pre = _convolve(x, weight, bias, ctx.grid_h, ctx.grid_w)
    grad_pre = _as_map(torch.ops.aten.gelu_backward(grad.contiguous(), pre), ctx.grid_h, ctx.grid_w)
    pad = weight.shape[-1] // 2
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad_pre,
        _as_map(x, ctx.grid_h, ctx.grid_w),
        weight,
        [weight.shape[0]],
        stride=[1, 1],
        padding=[pad, pad],
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=weight.shape[0],
        output_mask=list(ctx.needs_input_grad[:3]),
    )
    if grad_x is not None:
        grad_x = grad_x.permute(0, 2, 3, 1).reshape(x.shape)  # (B, C, H, W) -> (B, n, C)
    return grad_x, grad_weight, grad_bias, None, None


token_dwconv_gelu.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.skipvit.token_dwconv_gelu)
def _flops(x: Any, weight: Any, bias: Any, grid_h: int, grid_w: int, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * x[0] * x[1] * x[2] * weight[2] * weight[3]
