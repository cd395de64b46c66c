"""``skipvit::token_pyramid``: fewer patch tokens, each a weighted sum of all the patch tokens before.

The global aggregation of GLAD (arXiv 2310.07664, known from its abstract), "in a view of linear dimension reduction":
Y = P X with P (m, n). Class and register tokens are kept as they are.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


def token_pyramid_reference(x: Tensor, matrix: Tensor) -> Tensor:
    """The op in plain PyTorch; see `token_pyramid`."""
    # On a CPU, bmm of an expanded matrix and writing into the output instead of cat are both within 5 % of this.
    prefix = x.shape[1] - matrix.shape[-1]
    return torch.cat([x[:, :prefix], matrix @ x[:, prefix:]], dim=1)


@torch.library.custom_op("skipvit::token_pyramid", mutates_args=())
def token_pyramid(x: Tensor, matrix: Tensor) -> Tensor:
    """[prefix; matrix @ patches]: n patch tokens become m, the p tokens in front of them stay.

    What the matrix has no columns for is prefix: p = x.shape[1] - n. A matrix for another, smaller grid can therefore
    not be told from one with more prefix tokens; a caller that knows its p checks it.

    Args:
        x: tokens (B, p + n, C), any floating dtype.
        matrix: (m, n) for all images, or (B, m, n) with one per image; m <= n, dtype of x.

    Returns:
        (B, p + m, C), contiguous, dtype of x, under autocast too.

    Raises:
        ValueError: the token counts, the batch sizes or the dtypes do not agree.
    """
    _check(x, matrix)
    with torch.autocast(x.device.type, enabled=False):  # the caller chose the dtype
        return token_pyramid_reference(x, matrix)


def _check(x: Tensor, matrix: Tensor) -> None:
    if x.ndim != 3 or matrix.ndim not in (2, 3):
        raise ValueError(
            f"token_pyramid needs tokens (B, p + n, C) and a matrix (m, n) or (B, m, n), got {tuple(x.shape)} "
            f"and {tuple(matrix.shape)}"
        )
    rows, columns = matrix.shape[-2:]
    if x.shape[1] < columns:
        raise ValueError(
            f"the token pyramid was made for {columns} patch tokens, got {x.shape[1]} tokens in all: "
            "a matrix belongs to one token count; resample it"
        )
    if not 1 <= rows <= columns:
        raise ValueError(f"token_pyramid got a matrix from {columns} tokens to {rows}; it needs 1 <= m <= n")
    if matrix.ndim == 3 and matrix.shape[0] != x.shape[0]:
        raise ValueError(
            f"token_pyramid got {matrix.shape[0]} matrices for {x.shape[0]} images; it needs one per image, "
            "or one (m, n) for all"
        )
    if x.dtype != matrix.dtype:
        raise ValueError(
            f"token_pyramid got tokens in {x.dtype} and a matrix in {matrix.dtype}; cast the matrix to {x.dtype}"
        )


@token_pyramid.register_fake
def _(x: Tensor, matrix: Tensor) -> Tensor:
    _check(x, matrix)
    return x.new_empty((x.shape[0], x.shape[1] - matrix.shape[-1] + matrix.shape[-2], x.shape[2]))


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, matrix = ctx.saved_tensors
    prefix = x.shape[1] - matrix.shape[-1]
    grad_patches = grad[:, prefix:]  # (B, m, C)
    grad_x = grad_matrix = None
    with torch.autocast(x.device.type, enabled=False):
        if ctx.needs_input_grad[0]:
            grad_x = torch.cat([grad[:, :prefix], matrix.mT @ grad_patches], dim=1)
        if ctx.needs_input_grad[1] and matrix.ndim == 3:
            grad_matrix = torch.bmm(grad_patches, x[:, prefix:].mT)
        elif ctx.needs_input_grad[1]:  # the sum over images is inside the product, not after it
            grad_matrix = torch.tensordot(grad_patches, x[:, prefix:], dims=([0, 2], [0, 2]))
    return grad_x, grad_matrix


token_pyramid.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.skipvit.token_pyramid)
def _flops(x: Any, matrix: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * x[0] * matrix[-2] * matrix[-1] * x[2]
