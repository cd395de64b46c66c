"""Matrices between tokens, carried over to another patch grid.

A row of such a matrix is a distribution over tokens: p prefix tokens, then n = H*W patch tokens in row-major order.
What it says is a picture over the grid: a change of resolution interpolates it, and every row sums to 1 again.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


def resample_attention(matrix: Tensor, old: Grid, new: Grid, prefix: int) -> Tensor:
    """Attention (h, p + n, p + n) over the grid ``old``, to (h, p + n', p + n') over the grid ``new``.

    Patch-to-patch attention is interpolated as a function of four coordinates, the prefix tokens' rows and columns as
    pictures. A row's share of attention to prefix tokens stays what it was where the grid is resampled evenly.
    """
    return resample_rows(resample_columns(matrix, old, new, prefix), old, new, prefix)


def resample_columns(matrix: Tensor, old: Grid, new: Grid, prefix: int) -> Tensor:
    """Rows (..., R, p + n) that sum to 1, to (..., R, p + n') that sum to 1."""
    heads, tails = matrix[..., :prefix], matrix[..., prefix:]
    # n' samples of the same density hold n' / n times its mass; the prefix tokens' share must not change with that
    tails = _interpolate(tails, old, new) * (old[0] * old[1] / (new[0] * new[1]))
    columns = torch.cat([heads, tails], dim=-1)
    return columns / columns.sum(dim=-1, keepdim=True)


def resample_rows(matrix: Tensor, old: Grid, new: Grid, prefix: int) -> Tensor:
    """Rows (..., p + m, N) of queries on a grid, to (..., p + m', N); sums of rows are kept."""
    columns = matrix.transpose(-2, -1)
    tails = _interpolate(columns[..., prefix:], old, new)
    return torch.cat([columns[..., :prefix], tails], dim=-1).transpose(-2, -1).contiguous()


def _interpolate(pictures: Tensor, old: Grid, new: Grid) -> Tensor:
    """(..., n) to (..., n'): bilinear, whose weights are never negative and sum to 1, smoothed where it shrinks."""
    if pictures.shape[-1] != old[0] * old[1]:
        raise ValueError(f"a matrix over {pictures.shape[-1]} patch tokens is none over a {old[0]} x {old[1]} grid")
    if old == new:
        return pictures
    flat = pictures.reshape(-1, 1, *old)  # (..., n) -> (rows, 1, H, W)
    resized = F.interpolate(flat, size=new, mode="bilinear", antialias=True, align_corners=False)
    return resized.reshape(*pictures.shape[:-1], new[0] * new[1])  # (rows, 1, H', W') -> (..., n')
