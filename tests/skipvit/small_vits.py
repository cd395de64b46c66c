"""ViTs small enough to test the family on, and pictures for them."""

import torch
from torch import Tensor

from skipvit.models.timm_guard import timm

SMALL = {"img_size": (8, 12), "patch_size": 2, "embed_dim": 24, "depth": 6, "num_heads": 3, "num_classes": 5}
ALL = "static:0-1 skip:3-4 tokens:12@2,6@4"


def vit(**kwargs: object) -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(**{**SMALL, **kwargs})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.double().eval()


def images(batch: int = 2, h: int = 8, w: int = 12) -> Tensor:
    return torch.randn(batch, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
