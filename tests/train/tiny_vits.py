"""Tiny ViTs of every kind that an analysis takes, with weights large enough for attention to matter."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from skipvit.models.timm_guard import timm
from skipvit.transforms import Preprocessing
from train.vit_parts import VitParts

PIXELS = Preprocessing(height=8, width=8, resize="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
_vit: Any = timm.models.vision_transformer
_SHAPE = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 4, "num_heads": 2, "num_classes": 5}

KINDS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: _vit.VisionTransformer(**_SHAPE),
    "layer scale, normed queries and keys": lambda: _vit.VisionTransformer(**_SHAPE, init_values=0.5, qk_norm=True),
    "registers, mean pooling": lambda: _vit.VisionTransformer(**_SHAPE, reg_tokens=2, global_pool="avg"),
    "no class token": lambda: _vit.VisionTransformer(**_SHAPE, class_token=False, global_pool="avg"),
    "gated, normed before": lambda: _vit.VisionTransformer(**_SHAPE, pre_norm=True, scale_attn_norm=True),
    "norm after": lambda: _vit.VisionTransformer(**_SHAPE, block_fn=_vit.ResPostBlock, init_values=0.5),
    "distilled": lambda: timm.models.deit.VisionTransformerDistilled(**_SHAPE),
}


def tiny_vit(kind: str = "plain", dtype: torch.dtype = torch.float64) -> nn.Module:
    """A ViT of 4 blocks on 8 x 8 pictures, in eval mode."""
    torch.manual_seed(0)
    model = KINDS[kind]().to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


def parts_of(model: nn.Module) -> VitParts:
    return VitParts(model, PIXELS)


def noise(images: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Model inputs (B, 3, 8, 8)."""
    return torch.randn(images, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=dtype)
