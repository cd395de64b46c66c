"""``skipvit::reused_attention``: the attention matrix of an earlier layer times the values of this one.

What SkipAt (arXiv 2301.02240, §4.5) does in its video denoiser: Z_dec = A_enc V_dec. No query, key or softmax is left.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


def reused_attention_reference(attention: Tensor, v: Tensor) -> Tensor:
    """The op in plain PyTorch; see `reused_attention`."""
    values = v.unflatten(2, (attention.shape[1], -1))  # (B, N, C) -> (B, N, h, d)
    return torch.einsum("bhij,bjhc->bihc", attention, values).flatten(2)


@torch.library.custom_op("skipvit::reused_attention", mutates_args=())
def reused_attention(attention: Tensor, v: Tensor) -> Tensor:
    """y[b, i, h*d + c] = sum over j of attention[b, h, i, j] * v[b, j, h*d + c], with d = C / h channels per head.

    Args:
        attention: (B, h, N, N) after its softmax, any floating dtype. B counts images, or windows of them.
        v: values (B, N, C), heads side by side: head h owns channels h*d to (h+1)*d. The dtype of attention.

    Returns:
        (B, N, C), contiguous, dtype of v, under autocast too.

    Raises:
        ValueError: the batch sizes, the token counts, the heads and the channels, or the dtypes do not agree.
    """
    _check(attention, v)
    with torch.autocast(v.device.type, enabled=False):  # the caller chose the dtype
        return _multiply(attention, v).contiguous()


def _check(attention: Tensor, v: Tensor) -> None:
    if attention.ndim != 4 or v.ndim != 3 or attention.shape[2] != attention.shape[3]:
        raise ValueError(
            f"reused_attention needs attention (B, h, N, N) and values (B, N, C), got {tuple(attention.shape)} "
            f"and {tuple(v.shape)}"
        )
    batch, heads, tokens, _ = attention.shape
    if v.shape[0] != batch or v.shape[1] != tokens:
        raise ValueError(
            f"reused_attention got attention for {batch} x {tokens} tokens and values for "
            f"{v.shape[0]} x {v.shape[1]}; both must come from the same windows of the same images"
        )
    if heads == 0 or v.shape[2] % heads != 0:
        raise ValueError(
            f"reused_attention got {v.shape[2]} channels for {heads} heads; the head count must divide the channels"
        )
    if v.dtype != attention.dtype:
        raise ValueError(
            f"reused_attention got attention in {attention.dtype} and values in {v.dtype}; "
            f"cast the attention to {v.dtype}"
        )


def _multiply(attention: Tensor, v: Tensor) -> Tensor:
    y = torch.matmul(attention, _split_heads(v, attention.shape[1]))  # (B, h, N, d)
    return y.transpose(1, 2).reshape(v.shape)  # (B, h, N, d) -> (B, N, h, d) -> (B, N, h*d)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    # (B, N, h*d) -> (B, N, h, d) -> (B, h, N, d); d by division, for -1 is not known where x is empty
    return x.reshape(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


@reused_attention.register_fake
def _(attention: Tensor, v: Tensor) -> Tensor:
    _check(attention, v)
    return torch.empty_like(v, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    attention, v = ctx.saved_tensors
    heads = attention.shape[1]
    grad_attention = grad_v = None
    with torch.autocast(v.device.type, enabled=False):
        if ctx.needs_input_grad[0]:
            grad_attention = torch.matmul(_split_heads(grad, heads), _split_heads(v, heads).mT)  # (B, h, N, N)
        if ctx.needs_input_grad[1]:
            grad_v = _multiply(attention.mT, grad)
    return grad_attention, grad_v


reused_attention.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.skipvit.reused_attention)
def _flops(attention: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * v[0] * v[1] * v[1] * v[2]
