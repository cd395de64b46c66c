"""SkipAt's parametric function Φ (arXiv 2301.02240): Φ = ECA ∘ FC2 ∘ DwC ∘ FC1.

Φ turns the attention output of an earlier layer into a stand-in for this layer's. It sees patch tokens only. Beside it
stand the two that the paper compares it with: reuse as it is, and a depthwise convolution alone.

Differences from the paper: none known; layer order, activations and sizes are those of the released code.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.ops import eca_gate, token_dwconv_gelu

PhiKind = Literal["phi", "identity", "dwconv"]
_ECA_KERNEL = 3  # fixed in the released code, not ECA-Net's channel-dependent size


class Phi(nn.Module):
    """FC1 and GELU, depthwise r x r convolution and GELU, FC2, then the ECA channel gate. No norm, no residual.

    Args:
        dim: channels d of the attention output.
        expansion: hidden channels are int(dim * expansion); the paper's is 2.
        kernel_size: odd r of the depthwise convolution; the paper's is 5.
        out_dim: channels of the stand-in, d if not given.
    """

    def __init__(
        self,
        dim: int,
        expansion: float = 2.0,
        kernel_size: int = 5,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        hidden = int(dim * expansion)
        if hidden < 1:
            raise ValueError(
                f"Φ of {dim} channels with expansion {expansion} has no hidden channel; raise the expansion"
            )
        _check_kernel(kernel_size)
        self.fc1 = nn.Linear(dim, hidden, device=device, dtype=dtype)
        self.dwconv = nn.Conv2d(
            hidden, hidden, kernel_size, padding=kernel_size // 2, groups=hidden, device=device, dtype=dtype
        )
        self.fc2 = nn.Linear(hidden, out_dim or dim, device=device, dtype=dtype)
        self.eca = nn.Conv1d(1, 1, _ECA_KERNEL, padding=_ECA_KERNEL // 2, bias=False, device=device, dtype=dtype)

    def forward(self, z: Tensor) -> Tensor:
        """Patch tokens on their grid, (B, H, W, d), to (B, H, W, out_dim)."""
        y = F.gelu(self.fc1(z))
        # Under autocast y may be in a lower precision than the weights that no autocast rule covers.
        assert self.dwconv.bias is not None
        weight, bias = self.dwconv.weight.to(y.dtype), self.dwconv.bias.to(y.dtype)
        y = self.fc2(token_dwconv_gelu(y, weight, bias))
        gate = eca_gate(y.flatten(1, 2), self.eca.weight.to(y.dtype))  # (B, H, W, d) -> (B, 1, d)
        return y * gate.unsqueeze(1)


class IdentityReuse(nn.Module):
    """The paper's ablation: the earlier attention output as it is."""

    def forward(self, z: Tensor) -> Tensor:
        """(B, H, W, d) to the same."""
        return z


class DepthwiseReuse(nn.Module):
    """The paper's ablation: one depthwise r x r convolution over the grid, with bias, and nothing else."""

    def __init__(
        self, dim: int, kernel_size: int = 5, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        _check_kernel(kernel_size)
        self.dwconv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, device=device, dtype=dtype)

    def forward(self, z: Tensor) -> Tensor:
        """Patch tokens on their grid, (B, H, W, d), to the same shape."""
        y: Tensor = self.dwconv(z.permute(0, 3, 1, 2))  # (B, H, W, d) -> (B, d, H, W), a view
        return y.permute(0, 2, 3, 1)  # (B, d, H, W) -> (B, H, W, d)


def make_phi(
    kind: PhiKind,
    dim: int,
    expansion: float,
    kernel_size: int,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Φ, or one of its ablations.

    Raises:
        ValueError: no such kind, or sizes that cannot work.
    """
    if kind == "phi":
        return Phi(dim, expansion, kernel_size, device=device, dtype=dtype)
    if kind == "dwconv":
        return DepthwiseReuse(dim, kernel_size, device=device, dtype=dtype)
    if kind == "identity":
        return IdentityReuse()
    raise ValueError(f"phi is 'phi', 'identity' or 'dwconv', got {kind!r}")


def _check_kernel(kernel_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"Φ needs an odd kernel size to keep the grid, got {kernel_size}; use 3, 5 or 7")
