"""``skipvit::token_dwconv_gelu``: depthwise convolution, bias and GELU on tokens as transformers lay them out.

The middle of SkipAt's Φ (arXiv 2301.02240) and of Uformer's LeFF. Tokens (B, H, W, C) are channels-last memory already,
so the convolution sees a view of them, and nothing is transposed.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


def token_dwconv_gelu_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The op in plain PyTorch; see `token_dwconv_gelu`."""
    return F.gelu(_convolve(x, weight, bias))


@torch.library.custom_op("skipvit::token_dwconv_gelu", mutates_args=())
def token_dwconv_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU(depthwise conv(x) + bias) over the grid, zero padded to keep its size. GELU is the exact, erf form.

    Args:
        x: patch tokens on their grid, (B, H, W, C), any floating dtype.
        weight: (C, 1, r, r) with r odd, dtype of x.
        bias: (C,), dtype of x.

    Returns:
        (B, H, W, C), dtype of x.

    Raises:
        ValueError: the tokens lie on no grid, or the kernel does not fit.
    """
    _check(x, weight, bias)
    # In place: nobody else sees the output of the convolution, and to map a second buffer costs as much as GELU.
    return torch.ops.aten.gelu_(_convolve(x, weight, bias)).contiguous()


def _check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(
            f"token_dwconv_gelu got x of shape {tuple(x.shape)}; "
            "it needs (B, H, W, C): patch tokens on their grid, no class token"
        )
    if weight.ndim != 4 or weight.shape[1] != 1 or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
        raise ValueError(
            f"token_dwconv_gelu needs a weight of shape (C, 1, r, r) with r odd, got {tuple(weight.shape)}"
        )
    channels = weight.shape[0]
    if x.shape[3] != channels or tuple(bias.shape) != (channels,):
        raise ValueError(
            f"token_dwconv_gelu got {x.shape[3]} channels, a weight for {channels} and a bias of {tuple(bias.shape)}; "
            "the three must agree"
        )


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    picture = x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W), a view in channels-last memory format
    y = F.conv2d(picture, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return y.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)


@token_dwconv_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    _check(x, weight, bias)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    # The pre-activation is computed again rather than kept: one depthwise convolution against B*H*W*C stored values.
    x, weight, bias = ctx.saved_tensors
    pre = _convolve(x, weight, bias)
    grad_pre = torch.ops.aten.gelu_backward(grad, pre)
    pad = weight.shape[-1] // 2
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad_pre.permute(0, 3, 1, 2),  # (B, H, W, C) -> (B, C, H, W)
        x.permute(0, 3, 1, 2),  # likewise
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
        grad_x = grad_x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
    return grad_x, grad_weight, grad_bias


token_dwconv_gelu.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.skipvit.token_dwconv_gelu)
def _flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * x[0] * x[1] * x[2] * x[3] * weight[2] * weight[3]
