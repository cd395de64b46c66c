"""A trained denoiser as the graph to deploy: noisy uint8 pictures in, clean ones out.

Uformer is rewritten as export/deploy_uformer.py says; any other denoiser is deployed as it is.
"""

import copy

import torch
from torch import Tensor, nn

from export.deploy_uformer import DeployedUformer
from skipvit.models import Uformer

MAX_LEVEL = 255.0


class DeployDenoiser(nn.Module):
    """Pictures (B, H, W, 3) uint8 to ``denoised`` uint8 and ``restored`` float32 in 0..255, both (B, H, W, 3).

    Or clips with their noise maps (B, T, H, W, 4) to clips (B, T, H, W, 3), where the model is one for clips.

    ``denoised`` is ``restored`` rounded half to even and clipped.

    Args:
        model: maps float32 images (B, 3, H, W) in 0..1 to the same; it is copied, not changed.
        dtype: float32 or float16, in which the model computes.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        model = copy.deepcopy(model).eval()
        self.restore: nn.Module = DeployedUformer(model, dtype) if type(model) is Uformer else AsItIs(model, dtype)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # Cast first: TensorRT takes uint8 as an input and knows no other operation on it.
        restored: Tensor = self.restore(images.float())
        return restored.round().clamp(0.0, MAX_LEVEL).to(torch.uint8), restored


class AsItIs(nn.Module):
    """A denoiser of images (..., c, H, W) in 0..1, on pictures (..., H, W, c) in 0..255."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model.to(dtype), dtype

    def forward(self, images: Tensor) -> Tensor:
        x = (images.movedim(-1, -3) / MAX_LEVEL).to(self.dtype)  # (..., H, W, c) -> (..., c, H, W)
        restored: Tensor = self.model(x).float() * MAX_LEVEL
        return restored.movedim(-3, -1)  # (..., 3, H, W) -> (..., H, W, 3)
