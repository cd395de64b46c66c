"""A trained classifier as the graph to deploy: uint8 pictures in, logits and probabilities out.

The rewrites are exact in real arithmetic, and each is there because it was measured to pay on a CPU:
  - normalisation is folded into the patch embedding, so the graph starts from the bytes of the picture;
  - linear layers act on 2-D tokens, which export as Gemm with its bias inside;
  - q, k and v are three products, q's already scaled: no split of a packed tensor, no extra multiplication;
  - static attention and static pyramids are constant matrices, with no softmax at run time;
  - under a class-token head the last block computes the class token's row only.
A model that is not a ViT of timm's or ours is deployed as it is, with normalisation in front.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.constant_matrices import ConstantAttention, ConstantPyramid, foldable
from skipvit.models import SkipVisionTransformer
from skipvit.models.blocks import AttentionBlock
from skipvit.models.timm_guard import timm
from skipvit.transforms import Preprocessing

_vit: Any = timm.models.vision_transformer
_Attention: Any = timm.layers.Attention


class DeployClassifier(nn.Module):
    """Pictures (B, H, W, 3) uint8 in 0..255 to logits and probabilities, both (B, num_classes) float32.

    Args:
        model: a classifier of float32 images (B, 3, H, W); it is copied, not changed.
        preprocessing: whose mean and std the model was trained with.
        dtype: float32 or float16, in which the graph computes.
    """

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        model = copy.deepcopy(model).eval()
        self.dtype = dtype
        self.normalise: nn.Module = Normalise(preprocessing)
        if _is_plain_vit(model):
            # Folded weights are about 1/60 of the original: float16 would lose their small values to underflow.
            if dtype == torch.float32 and _foldable(model):
                _fold_normalisation(model, preprocessing)
                self.normalise = nn.Identity()
            _rewrite_vit(model)
        self.model = _flatten_linears(model).to(dtype)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # Cast first: TensorRT takes uint8 as an input and knows no other operation on it.
        x = images.float().permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W)
        logits = self.model(self.normalise(x).to(self.dtype)).float()
        return logits, logits.softmax(dim=-1)


class Normalise(nn.Module):
    """(x / 255 - mean) / std per channel of (B, 3, H, W), as one multiplication and one addition."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        scale, shift = _scale_and_shift(preprocessing)
        self.register_buffer("scale", scale.float().reshape(1, 3, 1, 1))
        self.register_buffer("shift", shift.float().reshape(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def _scale_and_shift(preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor([preprocessing.mean, preprocessing.std], dtype=torch.float64)
    return 1 / (255 * std), -mean / std


def _is_plain_vit(model: nn.Module) -> bool:
    """Whether the forward pass is the one that the rewrites below know."""
    return type(model) in (_vit.VisionTransformer, SkipVisionTransformer) and not model.dynamic_img_size


def _foldable(model: Any) -> bool:
    # Padded patches hold zeros after normalisation, which zeros before it would not become.
    embed = model.patch_embed
    return isinstance(embed.proj, nn.Conv2d) and embed.proj.in_channels == 3 and not embed.dynamic_img_pad


def _fold_normalisation(model: Any, preprocessing: Preprocessing) -> None:
    """Rewrites W * norm(x) + b as W' * x + b' with x in 0..255."""
    conv = model.patch_embed.proj
    scale, shift = _scale_and_shift(preprocessing)
    weight = conv.weight.detach().double()  # (C, 3, patch, patch)
    bias = conv.bias.detach().double() if conv.bias is not None else torch.zeros(len(weight), dtype=torch.float64)
    bias = bias + (weight * shift.reshape(1, 3, 1, 1)).sum(dim=(1, 2, 3))
    conv.weight = nn.Parameter((weight * scale.reshape(1, 3, 1, 1)).to(conv.weight.dtype))
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype))


def _rewrite_vit(model: Any) -> None:
    for block in model.blocks:
        attention: Any = getattr(block, "attn", None)
        if foldable(attention):
            block.attn = ConstantAttention(attention)
        elif _known_attention(attention):
            block.attn = SplitAttention(attention)
    for key, pyramid in getattr(model, "pyramids", {}).items():
        if foldable(pyramid):
            model.pyramids[key] = ConstantPyramid(pyramid)
    last = model.blocks[-1]
    reads_class_token_only = model.global_pool == "token" and model.attn_pool is None
    if reads_class_token_only and type(last) in (_vit.Block, AttentionBlock) and _known_attention(last.attn):
        model.blocks[-1] = ClassTokenBlock(last)


def _known_attention(attention: Any) -> bool:
    if isinstance(attention, SplitAttention | ConstantAttention):
        return True
    return type(attention) is _Attention and attention.gate is None and isinstance(attention.norm, nn.Identity)


class SplitAttention(nn.Module):
    """timm's Attention in eval mode with q, k and v as three products and the scale inside q's weights."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.q_norm, self.k_norm, self.proj = attention.q_norm, attention.k_norm, attention.proj
        packed = attention.qkv.weight.detach().chunk(3)
        biases = attention.qkv.bias.detach().chunk(3) if attention.qkv.bias is not None else (None,) * 3
        self.q, self.k, self.v = (_linear(w, b) for w, b in zip(packed, biases, strict=True))
        self.scale = attention.scale
        if isinstance(self.q_norm, nn.Identity):  # a norm between the weights and the product would undo the scale
            self.scale = 1.0
            for parameter in self.q.parameters():
                parameter.data *= attention.scale

    def forward(self, x: Tensor, rows: Tensor | None = None, **_: Any) -> Tensor:
        """Attention output (B, M, C) of the M ``rows``, or of all of x, over the N tokens x (B, N, C)."""
        rows = x if rows is None else rows
        q = self.q_norm(self._heads(self.q(rows)))  # (B, h, M, d)
        k = self.k_norm(self._heads(self.k(x)))  # (B, h, N, d)
        q = q if self.scale == 1.0 else q * self.scale
        attention = (q @ k.transpose(-2, -1)).softmax(dim=-1)  # (B, h, M, N)
        y = attention @ self._heads(self.v(x))  # (B, h, M, d)
        return self.proj(y.transpose(1, 2).reshape(rows.shape[0], -1, self.num_heads * self.head_dim))

    def _heads(self, x: Tensor) -> Tensor:
        # (B, N, h*d) -> (B, h, N, d)
        return x.reshape(x.shape[0], -1, self.num_heads, self.head_dim).transpose(1, 2)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    linear.weight = nn.Parameter(weight.clone())
    if bias is not None:
        linear.bias = nn.Parameter(bias.clone())
    return linear


class ClassTokenBlock(nn.Module):
    """A last block that computes the class token alone, (B, N, C) to (B, 1, C): the head reads no other row."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = block.norm1, block.attn, block.ls1
        self.norm2, self.mlp, self.ls2 = block.norm2, block.mlp, block.ls2
        self.hands_on_attention = isinstance(block, AttentionBlock)

    def forward(self, x: Tensor, *_: Any) -> Tensor | tuple[Tensor, Tensor]:
        y = self.norm1(x)
        z = self.attn(y, rows=y[:, :1])  # (B, 1, C)
        x = x[:, :1] + self.ls1(z)
        x = x + self.ls2(self.mlp(self.norm2(x)))
        return (x, z) if self.hands_on_attention else x


class FlatLinear(nn.Module):
    """A linear layer that sees its leading axes as one, (..., in) -> (rows, in) -> (rows, out) -> (..., out)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return F.linear(x, self.weight, self.bias)
        rows = F.linear(x.reshape(-1, x.shape[-1]), self.weight, self.bias)
        return rows.reshape(*x.shape[:-1], rows.shape[-1])


def _flatten_linears(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, FlatLinear(child))
        else:
            _flatten_linears(child)
    return module
