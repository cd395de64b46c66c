"""The parts of Uformer (arXiv 2106.03106): LeWin blocks and their stages, and the convolutions between stages.

Every part takes and returns tokens on their grid, x (B, H, W, C), which is channels-last memory for convolutions.
Blocks also hand on their attention output z, where each token was and before drop path, for a block of SkipAt's to
reuse.

Names of parts are those of the released weights.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.layers.leff import LeFF
from skipvit.layers.phi import Phi
from skipvit.layers.window_attention import WindowAttention, shift_mask
from skipvit.models.timm_guard import timm

_NONE: Mapping[int, Tensor] = MappingProxyType({})


def _drop_path(rate: float) -> nn.Module:
    path: nn.Module = timm.layers.DropPath(rate) if rate else nn.Identity()
    return path


class LeWinBlock(nn.Module):
    """Window attention and LeFF, each behind a norm and beside a residual path.

    Args:
        dim: channels C.
        num_heads: heads of the attention.
        window: side of a window, in tokens.
        shift: how far the windows are shifted.
        mlp_ratio: hidden channels of LeFF, in C.
        modulator: whether the block owns w*w tokens that are added to each window.
        drop_path: the rate of both residual paths.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: int,
        shift: int,
        mlp_ratio: float,
        modulator: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.modulator = nn.Embedding(window * window, dim) if modulator else None
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window, shift)
        self.drop_path = _drop_path(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = LeFF(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, z: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Residual stream x (B, H, W, C) to its next value, and the attention output; what came as z is not used.

        Args:
            mask: the stage's, for shifted windows.
        """
        modulator = None if self.modulator is None else self.modulator.weight
        z = self.attn(self.norm1(x), modulator, mask if self.attn.shift else None)
        x = x + self.drop_path(z)
        return x + self.drop_path(self.mlp(self.norm2(x))), z


class SkipLeWinBlock(nn.Module):
    """A LeWin block that has Φ of an encoder block's attention output in place of attention of its own (SkipAt).

    It owns no norm1, modulator, queries, keys or values.

    Args:
        dim: channels C.
        from_dim: channels of the attention output that it is given.
        phi_expansion: hidden channels of Φ, in ``from_dim``.
        phi_kernel_size: side of Φ's convolution.
        phi_proj: whether the output projection C x C of the attention stays, after Φ.
        mlp_ratio: hidden channels of LeFF, in C.
        drop_path: the rate of both residual paths.
    """

    def __init__(
        self,
        dim: int,
        from_dim: int,
        phi_expansion: float,
        phi_kernel_size: int,
        phi_proj: bool,
        mlp_ratio: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.phi = Phi(from_dim, phi_expansion, phi_kernel_size, out_dim=dim)
        self.proj = nn.Linear(dim, dim) if phi_proj else nn.Identity()
        self.drop_path = _drop_path(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = LeFF(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, z: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Residual stream x (B, H, W, C) and an attention output z (B, H, W, from_dim) to their next values."""
        assert z is not None, "the model keeps what its skipping blocks need"
        z = self.proj(self.phi(z))
        x = x + self.drop_path(z)
        return x + self.drop_path(self.mlp(self.norm2(x))), z


class LeWinStage(nn.Module):
    """Blocks of one resolution."""

    def __init__(self, blocks: Sequence[LeWinBlock | SkipLeWinBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        windows = [(block.attn.window, block.attn.shift) for block in blocks if isinstance(block, LeWinBlock)]
        self._shifted = next(((window, shift) for window, shift in windows if shift), None)

    def forward(
        self, x: Tensor, reused: Mapping[int, Tensor] = _NONE, kept: Sequence[int] = ()
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Tokens (B, H, W, C) to the same, and the attention outputs of some blocks.

        Args:
            reused: the attention outputs that skipping blocks take, by the block's index.
            kept: the blocks whose attention outputs to return.
        """
        mask = None if self._shifted is None else shift_mask(x.shape[1], x.shape[2], *self._shifted, x)
        outputs: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            x, z = block(x, reused.get(index), mask)
            if index in kept:
                outputs[index] = z
        return x, outputs


class InputProj(nn.Module):
    """Pictures (B, c, H, W) to tokens (B, H, W, C): a 3 x 3 convolution and leaky ReLU."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(in_chans, dim, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.proj(x).permute(0, 2, 3, 1).contiguous())  # (B, C, H, W) -> (B, H, W, C)


class OutputProj(nn.Module):
    """Tokens (B, H, W, C) to pictures (B, c, H, W): a 3 x 3 convolution."""

    def __init__(self, dim: int, out_chans: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(dim, out_chans, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(x.permute(0, 3, 1, 2))
        return y


class Downsample(nn.Module):
    """Tokens (B, H, W, C) to (B, H/2, W/2, C'): a 4 x 4 convolution of stride 2."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(dim, out_dim, 4, stride=2, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x.permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).contiguous()


class Upsample(nn.Module):
    """Tokens (B, H, W, C) to (B, 2H, 2W, C'): a 2 x 2 transposed convolution of stride 2."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.deconv = nn.Sequential(nn.ConvTranspose2d(dim, out_dim, 2, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.deconv(x.permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1)
