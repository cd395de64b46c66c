"""Window attention of Uformer's LeWin blocks (arXiv 2106.03106), which is Swin's (arXiv 2103.14030):

    Attention(Q, K, V) = softmax(QKᵀ/√d + B) V       inside each w x w window, B the relative position bias

B pictures, H x W tokens, C channels, w the side of a window, N = w*w its tokens, h heads of d = C/h channels. H and W
are multiples of w.

Differences from the paper: none known; names and shapes of the weights are the released code's.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FORBIDDEN = -100.0  # added to the logits of a pair that may not attend, as the released models were trained with


def window_partition(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) to the windows of each picture, row by row: (B * H/w * W/w, N, C)."""
    batch, height, width, channels = x.shape
    down, across = height // window, width // window
    x = x.reshape(batch, down, window, across, window, channels).transpose(2, 3)  # (B, H/w, W/w, w, w, C)
    return x.reshape(batch * down * across, window * window, channels)


def window_reverse(windows: Tensor, window: int, batch: int, height: int, width: int) -> Tensor:
    """The inverse of `window_partition`: (B * H/w * W/w, N, C) to (B, H, W, C)."""
    down, across, channels = height // window, width // window, windows.shape[-1]
    x = windows.reshape(batch, down, across, window, window, channels).transpose(2, 3)  # (B, H/w, w, W/w, w, C)
    return x.reshape(batch, height, width, channels)


def shift_mask(height: int, width: int, window: int, shift: int, like: Tensor) -> Tensor:
    """What to add to the logits in windows of a picture that was rolled by ``shift``, (H/w * W/w, N, N).

    A roll brings the first rows and columns to the end, where they share windows with tokens that they are no
    neighbours of: such pairs get -100, the others 0.

    Args:
        like: of the dtype and on the device that the mask is to have.
    """
    rows = torch.arange(height, device=like.device) >= height - shift
    columns = torch.arange(width, device=like.device) >= width - shift
    # Four regions; the whole windows before the last lie in the first one, as far as rows or columns go.
    regions = 2 * rows.long().unsqueeze(1) + columns.long().unsqueeze(0)  # (H, W)
    of_tokens = window_partition(regions[None, :, :, None], window).squeeze(-1)  # (H/w * W/w, N)
    apart = of_tokens.unsqueeze(1) != of_tokens.unsqueeze(2)
    return apart.to(like.dtype) * _FORBIDDEN


def relative_position_index(window: int) -> Tensor:
    """Where the bias of each pair of tokens stands in the table, (N, N) int64: by how far apart they are."""
    steps = torch.arange(window)
    rows = steps.repeat_interleave(window)  # (N,)
    columns = steps.repeat(window)  # (N,)
    down = rows.unsqueeze(1) - rows.unsqueeze(0) + window - 1
    right = columns.unsqueeze(1) - columns.unsqueeze(0) + window - 1
    return down * (2 * window - 1) + right


class LinearProjection(nn.Module):
    """Queries from one matrix, keys and values from another."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(dim, dim)
        self.to_kv = nn.Linear(dim, 2 * dim)


class WindowAttention(nn.Module):
    """Attention inside the windows of a token map, shifted ones included, with its output projection.

    Args:
        dim: channels C.
        num_heads: h, which divides C.
        window: w.
        shift: how far windows are shifted, in tokens, 0 <= shift < w.

    Raises:
        ValueError: the heads do not divide the channels, or the shift is not inside a window.
    """

    relative_position_index: Tensor

    def __init__(self, dim: int, num_heads: int, window: int = 8, shift: int = 0) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"{dim} channels cannot be split into {num_heads} heads; give a divisor of {dim}")
        if not 0 <= shift < window:
            raise ValueError(f"windows of {window} cannot be shifted by {shift}; the shift is from 0 to {window - 1}")
        self.num_heads, self.window, self.shift = num_heads, window, shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = LinearProjection(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, modulator: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, H, W, C) to attention output of the same shape, each token where it was.

        Args:
            modulator: (N, C), added to every window before the projections.
            mask: `shift_mask` of this size, where the windows are shifted.
        """
        batch, height, width = x.shape[:3]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        windows = window_partition(x, self.window)
        if modulator is not None:
            windows = windows + modulator
        y = self._attend(windows, mask, batch)
        y = window_reverse(self.proj(y), self.window, batch, height, width)
        return y.roll((self.shift, self.shift), (1, 2)) if self.shift else y

    def _attend(self, windows: Tensor, mask: Tensor | None, batch: int) -> Tensor:
        """The windows (M, N, C) of ``batch`` pictures to the same."""
        m, n, c = windows.shape
        h, d = self.num_heads, c // self.num_heads
        q = self.qkv.to_q(windows).reshape(m, n, h, d).transpose(1, 2)  # (M, h, N, d)
        k, v = self.qkv.to_kv(windows).reshape(m, n, 2, h, d).permute(2, 0, 3, 1, 4).unbind(0)  # (M, h, N, d) each
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]  # (N * N, h)
        bias = bias.t().reshape(1, h, n, n).to(q.dtype)
        if mask is not None:  # a picture's windows lie beside its heads: their masks are the same for all pictures
            beside = mask.shape[0] * h
            bias = (bias + mask.to(q.dtype).unsqueeze(1)).reshape(1, beside, n, n)
            q, k, v = (t.reshape(batch, beside, n, d) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, bias)
        return y.reshape(m, h, n, d).transpose(1, 2).reshape(m, n, c)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Refuses an index other than its own: it would read biases of other pairs, or outside of the table."""
        own, name = self.relative_position_index, prefix + "relative_position_index"
        index = state_dict.get(name, own)
        on_meta = own.is_meta or index.is_meta  # where there are no values to compare
        if index.shape == own.shape and not on_meta and not torch.equal(index.to(own), own):
            args[-1].append(f"{name} is not that of {self.window} x {self.window} windows")
        super()._load_from_state_dict(state_dict, prefix, *args)
