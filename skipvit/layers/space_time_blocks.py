"""Blocks of a space-time network: UniFormer's local and global kinds, and SkipAt's that computes no attention.

Features are (B, C, T, H, W) in channels-last memory, so that tokens (B, T, H, W, C) are a view of them.
"""

from torch import Tensor, nn
from torch.nn.functional import gelu

from skipvit.layers.space_time import ReusedSpaceTimeAttention, SpaceTimeAttention, SpaceTimeConv


class ConvBlock(nn.Module):
    """x + conv(GELU(conv(x))): the first convolution over space and time, the second over space."""

    def __init__(self, dim: int, time: int, causal: bool = False) -> None:
        super().__init__()
        self.conv1 = SpaceTimeConv(dim, dim, time, causal=causal)
        self.conv2 = SpaceTimeConv(dim, dim, time=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(gelu(self.conv1(x)))
        return x + y


class Mlp(nn.Module):
    """timm's names for the two layers of a transformer's feed-forward part."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(gelu(self.fc1(x)))
        return y


class AttentionBlock(nn.Module):
    """A depthwise convolution for positions, window attention, MLP; each added to what it is given.

    Args:
        mlp_ratio: hidden channels of the MLP, in channels.
        reuse: take the attention matrix of an earlier block instead of computing one.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        frames: int,
        window: int,
        time: int,
        mlp_ratio: float = 2.0,
        causal: bool = False,
        reuse: bool = False,
    ) -> None:
        super().__init__()
        self.pos = SpaceTimeConv(dim, dim, time, groups=dim, causal=causal)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = (
            ReusedSpaceTimeAttention(dim, num_heads, window)
            if reuse
            else SpaceTimeAttention(dim, num_heads, frames, window, causal)
        )
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, attention: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, T, H, W) and, if it reuses one, a matrix; to (B, C, T, H, W) and the matrix that was used."""
        x = x + self.pos(x)
        tokens = x.permute(0, 2, 3, 4, 1)  # (B, C, T, H, W) -> (B, T, H, W, C)
        y = self.norm1(tokens)
        if isinstance(self.attn, SpaceTimeAttention):
            z, attention = self.attn(y)
        else:
            assert attention is not None, "a block that reuses attention is given one"
            z = self.attn(y, attention)
        tokens = tokens + z
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens.permute(0, 4, 1, 2, 3), attention
