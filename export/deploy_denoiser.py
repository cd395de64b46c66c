"""A trained denoiser as the graph to deploy: noisy uint8 pictures in, clean ones out.

1/255 and 255 go into the first and the last convolution where the model's deployed form can take them in. A denoiser
that no rewrite is known for is deployed as it is.
"""

import copy

import torch
from torch import Tensor, nn

MAX_LEVEL = 255.0


class DeployDenoiser(nn.Module):
    """Pictures (B, H, W, 3) uint8 to ``denoised`` uint8 and ``restored`` float32 in 0..255, both (B, H, W, 3).

    ``denoised`` is ``restored`` rounded half to even and clipped.

    Args:
        model: maps float32 images (B, 3, H, W) in 0..1 to the same; it is copied, not changed.
        dtype: float32 or float16, in which the model computes.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().to(dtype)
        self.dtype = dtype

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # Cast first: TensorRT takes uint8 as an input and knows no other operation on it.
        x = images.float().permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W)
        restored = self.model((x / MAX_LEVEL).to(self.dtype)).float() * MAX_LEVEL
        restored = restored.permute(0, 2, 3, 1)  # (B, 3, H, W) -> (B, H, W, 3)
        return to_levels(restored), restored


def to_levels(restored: Tensor) -> Tensor:
    """Float pixels in 0..255 to uint8, rounded half to even and clipped."""
    return restored.round().clamp(0.0, MAX_LEVEL).to(torch.uint8)
