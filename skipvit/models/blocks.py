"""The blocks of the family: each takes and returns the residual stream x and the last attention output z.

B batch, N tokens, n patch tokens, p prefix tokens (N = p + n), C channels, H x W the patch grid.
"""

from typing import Any

import torch
from torch import Tensor, nn

from skipvit.models.spec import Grid


class AttentionBlock(nn.Module):
    """timm's ViT block, which also hands on its attention output Ẑ (after proj, before LayerScale and drop path).

    ``attn`` is timm's Attention, or a StaticAttention.

    Args:
        block: timm's Block, whose parts it takes over under their names.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1, self.drop_path1 = block.norm1, block.attn, block.ls1, block.drop_path1
        self.norm2, self.mlp, self.ls2, self.drop_path2 = block.norm2, block.mlp, block.ls2, block.drop_path2

    def forward(self, x: Tensor, z: Tensor | None, grid: Grid) -> tuple[Tensor, Tensor]:
        z = self.attn(self.norm1(x))
        x = x + self.drop_path1(self.ls1(z))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x, z


class SkipBlock(nn.Module):
    """A block that owns Φ in place of norm1 and attn (SkipAt); its MLP half is taken over from ``block``.

    Args:
        block: the attention block whose place it takes.
        phi: the parametric function, of patch tokens on their grid, (B, H, W, C), to the same shape.
        num_prefix_tokens: leading tokens that Φ does not see.
    """

    def __init__(self, block: Any, phi: nn.Module, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.phi = phi
        self.ls1, self.drop_path1 = block.ls1, block.drop_path1
        self.norm2, self.mlp, self.ls2, self.drop_path2 = block.norm2, block.mlp, block.ls2, block.drop_path2

    def forward(self, x: Tensor, z: Tensor | None, grid: Grid) -> tuple[Tensor, Tensor]:
        """Residual stream x and last attention output z, both (B, N, C), to their next values."""
        assert z is not None, "the model guarantees that its first block computes attention"
        p = self.num_prefix_tokens
        patches = z[:, p:].unflatten(1, grid)  # (B, n, C) -> (B, H, W, C)
        z = torch.cat([z[:, :p], self.phi(patches).flatten(1, 2)], dim=1)  # (B, p + n, C)
        x = x + self.drop_path1(self.ls1(z))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x, z
