"""``skipvit::static_attention``: one attention matrix per head, the same for every image, times this image's values.

What DGSSA (arXiv 2310.07664, known from its abstract) leaves of attention in early layers: no query, key or softmax.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


def static_attention_reference(v: Tensor, matrix: Tensor) -> Tensor:
    """The op in plain PyTorch; see `static_attention`."""
    values = v.unflatten(2, (matrix.shape[0], -1))  # (B, N, C) -> (B, N, h, d)
    return torch.einsum("hij,bjhc->bihc", matrix, values).flatten(2)


@torch.library.custom_op("skipvit::static_attention", mutates_args=())
def static_attention(v: Tensor, matrix: Tensor) -> Tensor:
    """y[b, i, h*d + c] = sum over j of matrix[h, i, j] * v[b, j, h*d + c], with d = C / h channels per head.

    Args:
        v: values (B, N, C), heads side by side: head h owns channels h*d to (h+1)*d. Any floating dtype.
        matrix: (h, M, N) in the dtype of v; M = N, or fewer rows when only the first M tokens are read later.

    Returns:
        (B, M, C), contiguous, dtype of v, under autocast too.

    Raises:
        ValueError: the token counts, the heads and the channels, or the dtypes do not agree.
    """
    _check(v, matrix)
    with torch.autocast(v.device.type, enabled=False):  # the caller chose the dtype
        return _multiply(v, matrix).contiguous()


def _check(v: Tensor, matrix: Tensor) -> None:
    if v.ndim != 3 or matrix.ndim != 3:
        raise ValueError(
            f"static_attention needs values (B, N, C) and a matrix (h, M, N), got {tuple(v.shape)} "
            f"and {tuple(matrix.shape)}"
        )
    heads, rows, columns = matrix.shape
    if v.shape[1] != columns:
        raise ValueError(
            f"static attention was made for {columns} tokens, got {v.shape[1]}: "
            "a matrix belongs to one token count; resample it"
        )
    if not 1 <= rows <= columns:
        raise ValueError(f"static_attention got a matrix of {rows} rows for {columns} tokens; it needs 1 <= M <= N")
    if heads == 0 or v.shape[2] % heads != 0:
        raise ValueError(
            f"static_attention got {v.shape[2]} channels for {heads} heads; the head count must divide the channels"
        )
    if v.dtype != matrix.dtype:
        raise ValueError(
            f"static_attention got values in {v.dtype} and a matrix in {matrix.dtype}; cast the matrix to {v.dtype}"
        )


def _multiply(v: Tensor, matrix: Tensor) -> Tensor:
    # One GEMM per head with the batch among the columns, (h, M, N) x (h, N, B*d). Against a broadcast product over
    # (B, h, N, d), which copies the matrix once per image, it took 0.44 to 0.58 ms of CPU time per image at batch 8
    # and the same 0.37 ms at batch 1 (h 6, N 197, d 64, float32).
    heads, rows, _ = matrix.shape
    batch, _, channels = v.shape
    y = torch.bmm(matrix, _split_heads(v, heads))  # (h, M, B*d)
    return y.reshape(heads, rows, batch, channels // heads).permute(2, 1, 0, 3).reshape(batch, rows, channels)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    # (B, N, h*d) -> (h, N, B*d)
    batch, tokens, channels = x.shape
    own = channels // heads
    return x.reshape(batch, tokens, heads, own).permute(2, 1, 0, 3).reshape(heads, tokens, batch * own)


@static_attention.register_fake
def _(v: Tensor, matrix: Tensor) -> Tensor:
    _check(v, matrix)
    return v.new_empty((v.shape[0], matrix.shape[1], v.shape[2]))


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    v, matrix = ctx.saved_tensors
    heads = matrix.shape[0]
    grad_v = grad_matrix = None
    with torch.autocast(v.device.type, enabled=False):
        if ctx.needs_input_grad[0]:
            grad_v = _multiply(grad, matrix.transpose(1, 2))
        if ctx.needs_input_grad[1]:  # (h, M, B*d) x (h, B*d, N): the sum over images is inside the product
            grad_matrix = torch.bmm(_split_heads(grad, heads), _split_heads(v, heads).transpose(1, 2))
    return grad_v, grad_matrix


static_attention.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.skipvit.static_attention)
def _flops(v: Any, matrix: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * v[0] * matrix[1] * matrix[2] * v[2]
