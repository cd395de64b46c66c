"""Window attention as it is deployed. The rewrites are exact in real arithmetic.

- queries carry the scale; keys lose their bias, which adds the same to all logits of a row; the values' bias is in
  the output projection's, for the weights of a row sum to one;
- linear layers act on 2-D tokens, which export as Gemm with its bias inside;
- few heads are computed one by one, without transpositions to bring them apart and together;
- relative position biases are constants;
- a shift and the cut into windows are one reordering of tokens.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.layers.window_attention import WindowAttention, window_partition, window_reverse

# More heads than these are computed together: one by one they still took 10 % less time, and eight nodes each.
_FEW_HEADS = 4
_FORBIDDEN = -100.0


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer that sees its leading axes as one, (..., in) -> (rows, in) -> (rows, out) -> (..., out)."""
    rows = F.linear(x.reshape(-1, x.shape[-1]), weight, bias)
    return rows.reshape(*x.shape[:-1], weight.shape[0])


class Shifted(NamedTuple):
    """What all shifted windows of one size have in common.

    ``order`` (H*W,) holds the token that comes to each place when windows are cut from the rolled picture, ``back``
    is its inverse, and ``mask`` (M, N, N) is added to the logits of a picture's M windows.
    """

    order: Tensor
    back: Tensor
    mask: Tensor

    @classmethod
    def of(cls, height: int, width: int, window: int, shift: int, like: Tensor) -> "Shifted":
        """Of tokens (B, height, width, C) and windows of ``window`` tokens shifted by ``shift``."""
        rows, columns = torch.arange(height, device=like.device), torch.arange(width, device=like.device)
        from_rows, from_columns = _rolled(rows, shift, height), _rolled(columns, shift, width)
        order = from_rows.unsqueeze(1) * width + from_columns  # (H, W)
        to_rows, to_columns = _rolled(rows, height - shift, height), _rolled(columns, width - shift, width)
        which = (to_rows // window).unsqueeze(1) * (width // window) + to_columns // window
        inside = (to_rows % window).unsqueeze(1) * window + to_columns % window
        # The regions that a roll brings together: their tokens are no neighbours.
        regions = 2 * (rows >= height - shift).long().unsqueeze(1) + (columns >= width - shift).long()
        of_tokens = _cut(regions, window)
        apart = of_tokens.unsqueeze(1) != of_tokens.unsqueeze(2)
        mask = torch.where(apart, torch.full((), _FORBIDDEN, dtype=like.dtype), torch.zeros((), dtype=like.dtype))
        return cls(_cut(order, window).flatten(), (which * window**2 + inside).flatten(), mask)


def _rolled(places: Tensor, shift: int, size: int) -> Tensor:
    """Which place each one's content comes from in a roll by ``shift`` towards 0."""
    return torch.where(places < size - shift, places + shift, places + shift - size)


def _cut(grid: Tensor, window: int) -> Tensor:
    """(H, W) to (M, N)."""
    return window_partition(grid[None, :, :, None], window).squeeze(-1)


class DeployedAttention(nn.Module):
    """A WindowAttention in eval mode, and the modulator of its block: x (B, H, W, C) to the same."""

    proj: Tensor
    proj_bias: Tensor
    modulator: Tensor | None

    def __init__(self, attention: WindowAttention, modulator: Any) -> None:
        super().__init__()
        self.window, self.shift = attention.window, attention.shift
        q, kv, proj = attention.qkv.to_q, attention.qkv.to_kv, attention.proj
        scale = (q.out_features // attention.num_heads) ** -0.5
        table, index = attention.relative_position_bias_table.detach(), attention.relative_position_index
        of_all = (
            q.weight.detach() * scale,
            q.bias.detach() * scale,
            *kv.weight.detach().chunk(2),
            table[index].permute(2, 0, 1),  # (N, N, h) -> (h, N, N)
        )
        groups = attention.num_heads if attention.num_heads <= _FEW_HEADS else 1
        of_each = zip(*(tensor.chunk(groups) for tensor in of_all), strict=True)
        self.heads = nn.ModuleList(Heads(*tensors) for tensors in of_each)
        self.register_buffer("proj", proj.weight.detach().clone())
        v_bias = kv.bias.detach().chunk(2)[1]
        self.register_buffer("proj_bias", proj.bias.detach() + proj.weight.detach() @ v_bias)
        self.register_buffer("modulator", None if modulator is None else modulator.weight.detach().clone())

    def forward(self, x: Tensor, shifted: Shifted | None) -> Tensor:
        """
        Args:
            shifted: of this size, where the windows are shifted; not used otherwise.
        """
        batch, height, width, channels = x.shape
        shifted = shifted if self.shift else None
        if shifted is None:
            windows = window_partition(x, self.window)  # (B * M, N, C)
        else:
            windows = x.flatten(1, 2).index_select(1, shifted.order).reshape(-1, self.window**2, channels)
        if self.modulator is not None:
            windows = windows + self.modulator
        outputs = [heads(windows, None if shifted is None else shifted.mask) for heads in self.heads]
        y = linear(outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1), self.proj, self.proj_bias)
        if shifted is None:
            return window_reverse(y, self.window, batch, height, width)
        return y.reshape(batch, height * width, channels).index_select(1, shifted.back).reshape(x.shape)


class Heads(nn.Module):
    """One head of d channels, or h of them together: windows (B * M, N, C) to (B * M, N, h*d).

    Args:
        q, q_bias, k, v: weights (h*d, C) and (h*d,); the scale is inside q and its bias.
        bias: (h, N, N), of the logits.
    """

    q: Tensor
    q_bias: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor

    def __init__(self, q: Tensor, q_bias: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.num_heads = len(bias)
        bias = bias[0] if self.num_heads == 1 else bias
        for name, tensor in {"q": q, "q_bias": q_bias, "k": k, "v": v, "bias": bias}.items():
            self.register_buffer(name, tensor.clone(memory_format=torch.contiguous_format))

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = linear(windows, self.q, self.q_bias), linear(windows, self.k), linear(windows, self.v)
        if self.num_heads == 1:
            return _weights(q, k, self.bias, mask) @ v  # (B * M, N, N) x (B * M, N, d)
        # (B * M, N, h*d) -> (B * M, h, N, d)
        q, k, v = (y.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for y in (q, k, v))
        y = _weights(q, k, self.bias, None if mask is None else mask.unsqueeze(1)) @ v
        return y.transpose(1, 2).flatten(2)


def _weights(q: Tensor, k: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax of the logits (B * M, ..., N, N); the mask is (M, ..., N, N), the same for all pictures."""
    logits = q @ k.transpose(-1, -2) + bias
    if mask is not None:
        logits = (logits.unflatten(0, (-1, mask.shape[0])) + mask).flatten(0, 1)
    return logits.softmax(dim=-1)
