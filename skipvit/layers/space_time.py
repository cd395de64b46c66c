"""Convolution and window attention over space and time, of features (B, C, T, H, W) in channels-last memory.

B clips, T frames, H x W the map, C channels, w the side of a window, N = T*w*w its tokens, h heads of d channels.
A causal layer gives frame t nothing that comes after it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.ops import reused_attention


class SpaceTimeConv(nn.Conv3d):
    """3-D convolution that keeps T, H and W: zeros around each frame, and before and after the clip; stride 1.

    It starts as a convolution of each frame alone, the weights of all other frames zero.

    Args:
        time: kernel size in frames. Odd, or any number if causal.
        space: kernel size in pixels, odd.
        causal: all frames of the kernel are the present and past ones.
    """

    def __init__(
        self, dim: int, dim_out: int, time: int = 3, space: int = 3, groups: int = 1, causal: bool = False
    ) -> None:
        inside = 0 if causal else time // 2
        kernel, padding = (time, space, space), (inside, space // 2, space // 2)
        super().__init__(dim, dim_out, kernel, padding=padding, groups=groups)
        self.past = time - 1 if causal else 0
        with torch.no_grad():
            present = torch.empty_like(self.weight[:, :, :1])
            nn.init.kaiming_uniform_(present, a=5**0.5)  # as nn.Conv2d starts
            self.weight.zero_()[:, :, self.past or inside].copy_(present[:, :, 0])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C_out, T, H, W)."""
        return super().forward(F.pad(x, (0, 0, 0, 0, self.past, 0)) if self.past else x)


class WindowPartition:
    """Windows of w x w over all frames, as token sequences; H and W are multiples of w."""

    def __init__(self, window: int) -> None:
        self.window = window

    def split(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B * windows, T*w*w, C)."""
        B, T, H, W, C = x.shape
        w = self.window
        x = x.reshape(B, T, H // w, w, W // w, w, C).permute(0, 2, 4, 1, 3, 5, 6)  # (B, H/w, W/w, T, w, w, C)
        return x.reshape(B * (H // w) * (W // w), T * w * w, C)

    def join(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """(B * windows, T*w*w, C) to the ``shape`` (B, T, H, W, C) that was split."""
        B, T, H, W, C = shape
        w = self.window
        x = x.reshape(B, H // w, W // w, T, w, w, C).permute(0, 3, 1, 4, 2, 5, 6)  # (B, T, H/w, w, W/w, w, C)
        return x.reshape(B, T, H, W, C)


class SpaceTimeAttention(nn.Module):
    """Multi-head attention in windows of T frames by w x w, with a learned bias for each offset in time and space.

    Args:
        frames: T, fixed: the table of biases has an entry for each of (2T - 1)(2w - 1)² offsets.
    """

    offsets: Tensor
    mask: Tensor | None

    def __init__(self, dim: int, num_heads: int, frames: int, window: int, causal: bool = False) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.windows = WindowPartition(window)
        self.qk = nn.Linear(dim, 2 * dim)
        self.v, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * frames - 1) * (2 * window - 1) ** 2, num_heads)
        )
        offsets, later = relative_offsets(frames, window)
        self.register_buffer("offsets", offsets, persistent=False)
        mask = torch.zeros(later.shape).masked_fill(later, -torch.inf) if causal else None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, H, W, C) to the same, and the matrix (B * windows, h, N, N) for another layer to reuse."""
        tokens = self.windows.split(x)
        q, k = self.qk(tokens).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B', h, N, d)
        attention = ((q * self.scale) @ k.transpose(-2, -1) + self.bias()).softmax(dim=-1)  # (B', h, N, N)
        z = self.proj(reused_attention(attention, self.v(tokens)))
        return self.windows.join(z, x.shape), attention

    def bias(self) -> Tensor:
        """(h, N, N), minus infinity where a causal frame would look ahead."""
        bias = self.relative_position_bias_table[self.offsets].permute(2, 0, 1)  # (N, N, h) -> (h, N, N)
        return bias if self.mask is None else bias + self.mask


class ReusedSpaceTimeAttention(nn.Module):
    """Window attention by the matrix of an earlier layer: Z = A V with this layer's own values."""

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.windows = WindowPartition(window)
        self.v, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """(B, T, H, W, C) and a matrix (B * windows, h, N, N) of windows of this size, to (B, T, H, W, C)."""
        z = self.proj(reused_attention(attention, self.v(self.windows.split(x))))
        return self.windows.join(z, x.shape)


def relative_offsets(frames: int, window: int) -> tuple[Tensor, Tensor]:
    """For each pair of a window's tokens (N, N): the number of its offset, and whether the second's frame is later."""
    sizes = (frames, window, window)
    places = torch.stack(torch.meshgrid(*map(torch.arange, sizes), indexing="ij")).flatten(1)  # (3, N): t, y, x
    t, y, x = places[:, :, None] - places[:, None, :] + torch.tensor(sizes)[:, None, None] - 1  # each (N, N), from 0
    return (t * (2 * window - 1) + y) * (2 * window - 1) + x, t < frames - 1


def check_heads(dim: int, num_heads: int) -> None:
    """Raises ValueError unless the heads share the channels out evenly."""
    if num_heads < 1 or dim % num_heads:
        raise ValueError(f"{dim} channels cannot be shared out to {num_heads} heads; give a divisor")
