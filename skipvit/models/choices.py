"""How the parts of a spec are made, and the blocks that they are made into."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from skipvit.layers.phi import PhiKind, make_phi
from skipvit.layers.static_attention import Form, StaticAttention
from skipvit.layers.token_pyramid import PyramidKind
from skipvit.models.blocks import AttentionBlock, SkipBlock
from skipvit.models.spec import Grid, Kind
from skipvit.models.timm_guard import timm

_Attention: Any = timm.layers.Attention


@dataclass(frozen=True)
class Choices:
    """How the parts of a spec are made.

    Args:
        phi: SkipAt's Φ, or the paper's ablations ``identity`` and ``dwconv``.
        phi_expansion: hidden channels of Φ over embed_dim.
        phi_kernel_size: odd size of Φ's depthwise convolution.
        static_form: ``dense`` logits, or ``factorised`` ones of rank ``static_rank``.
        static_class_row: ``static``, or ``dynamic``: the class token's attention is computed.
        static_guided: static blocks keep their dynamic branch, to train with ``set_guide``.
        pyramid: ``static`` matrices, or ``content``-dependent ones.
    """

    phi: PhiKind = "phi"
    phi_expansion: float = 2.0
    phi_kernel_size: int = 5
    static_form: Form = "dense"
    static_rank: int = 8
    static_class_row: Literal["static", "dynamic"] = "static"
    static_guided: bool = False
    pyramid: PyramidKind = "static"

    def make_block(self, kind: Kind, block: Any, dim: int, grid: Grid, prefix_tokens: int) -> nn.Module:
        """timm's block, whose parts it takes over, as one of a kind.

        Args:
            dim: channels.
            grid: rows and columns of patch tokens that the block gets.
            prefix_tokens: class and register tokens before them.

        Raises:
            ValueError: it is to be static, and has no plain attention.
        """
        if kind == "skip":
            like = next(block.parameters())
            phi = make_phi(self.phi, dim, self.phi_expansion, self.phi_kernel_size, like.device, like.dtype)
            return SkipBlock(block, phi, prefix_tokens)
        if kind == "static":
            if type(block.attn) is not _Attention:
                raise ValueError(f"attention of {type(block.attn).__name__} cannot become static; leave it dynamic")
            tokens = prefix_tokens + grid[0] * grid[1]
            block.attn = StaticAttention(
                block.attn, tokens, self.static_form, self.static_rank, self.static_class_row, self.static_guided
            )
        return AttentionBlock(block)
