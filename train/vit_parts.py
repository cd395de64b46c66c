"""A ViT taken apart at its blocks, so that attention can be looked at and replaced while the rest runs as ever.

B images, N tokens, p prefix tokens, H x W the patch grid, C channels, h heads. Ẑ is the attention output (B, N, C):
after proj, before LayerScale and the residual.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.models.spec import Grid, Spec
from skipvit.models.timm_guard import timm
from skipvit.models.vision_transformer import SkipVisionTransformer
from skipvit.transforms import Preprocessing
from train.prepare import normalise

_vit: Any = timm.models.vision_transformer
_MAX_DIFFERENCE = 1e-3  # relative to the largest logit: float32 in another order of summation


class UnfitModel(Exception):
    """A model cannot be analysed; the message says why and what can be."""


@dataclass(frozen=True)
class State:
    """What a block takes: the residual stream x (B, N, C), the last attention output z (B, N, C), the patch grid."""

    x: Tensor
    z: Tensor | None
    grid: Grid


class VitParts:
    """A timm VisionTransformer (DeiT, distilled or not, among them), one part at a time, in eval mode.

    Raises:
        UnfitModel: it is no such ViT, or some of its blocks compute no attention already.
    """

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        vit: Any = model
        _check(vit)
        self.model = vit.eval()
        self.blocks: Sequence[Any] = list(self.model.blocks)
        self.preprocessing = preprocessing
        self.depth = len(self.blocks)
        self.prefix = int(self.model.num_prefix_tokens)
        self.heads = int(self.blocks[0].attn.num_heads)
        self.has_class_token = self.model.cls_token is not None
        self.global_pool = str(self.model.global_pool)
        self.device = next(self.model.parameters()).device
        size = (preprocessing.height, preprocessing.width)
        rows, columns = self.model.patch_embed.dynamic_feat_size(size)
        self.grid: Grid = (int(rows), int(columns))

    def images(self, pixels: Tensor) -> Tensor:
        """Pictures (B, height, width, 3) uint8 to the model's input (B, 3, height, width)."""
        moved = pixels.to(self.device).permute(0, 3, 1, 2)
        inputs = normalise(moved, self.preprocessing.mean, self.preprocessing.std)
        return inputs.to(next(self.model.parameters()).dtype)

    def embed(self, images: Tensor) -> State:
        """Images (B, 3, height, width) to what block 0 takes."""
        model = self.model
        x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
        return State(x, None, self.grid)

    def attend(self, block: int, x: Tensor) -> Tensor:
        """Ẑ (B, N, C) of a block, as the model itself computes it."""
        z: Tensor = self.blocks[block].attn(self._attention_input(block, x))
        return z

    def attention_map(self, block: int, x: Tensor) -> Tensor:
        """A (B, h, N, N): softmax of the scaled products of queries and keys, rows summing to 1."""
        attn = self.blocks[block].attn
        q, k, _ = self._qkv(attn, self._attention_input(block, x))
        return ((attn.q_norm(q) * attn.scale) @ attn.k_norm(k).transpose(-2, -1)).softmax(dim=-1)

    def attend_by(self, block: int, x: Tensor, attention: Tensor) -> Tensor:
        """Ẑ (B, N, C) of a block whose attention is given: (B, h, N, N), or (h, N, N) for all images alike."""
        attn, y = self.blocks[block].attn, self._attention_input(block, x)
        v = self._qkv(attn, y)[2]
        out = (attention @ v).transpose(1, 2).reshape(*x.shape[:2], -1)
        out = attn.norm(out)
        if attn.gate is not None:
            out = out * attn.gate(y).sigmoid()
        z: Tensor = attn.proj(out)
        return z

    def finish(self, block: int, x: Tensor, z: Tensor) -> Tensor:
        """The residual stream after a block whose attention output is z."""
        b = self.blocks[block]
        if isinstance(b, _vit.ResPostBlock):
            x = x + b.norm1(z)
            return x + b.norm2(b.mlp(x))
        x = x + b.ls1(z)
        return x + b.ls2(b.mlp(b.norm2(x)))

    def pool(self, tokens: Tensor, grid: Grid, smaller: Grid) -> Tensor:
        """Patch tokens (B, p + n, C) averaged onto a smaller grid; prefix tokens stay."""
        patches = tokens[:, self.prefix :].transpose(1, 2).unflatten(2, grid)  # (B, n, C) -> (B, C, H, W)
        pooled = F.adaptive_avg_pool2d(patches, smaller).flatten(2).transpose(1, 2)
        return torch.cat([tokens[:, : self.prefix], pooled], dim=1)

    def logits(self, x: Tensor) -> Tensor:
        """The residual stream after the last block to logits (B, classes), float64 so that small changes show."""
        found: Tensor = self.model.forward_head(self.model.norm(x))
        return found.double()

    def watch(self, images: Tensor, see: Callable[[Tensor, Tensor], object] = lambda a, z: None) -> Tensor:
        """Logits (B, classes) of the unchanged model; ``see`` gets A (B, h, N, N) and Ẑ (B, N, C) of each block."""
        x = self.embed(images).x
        for block in range(self.depth):
            a = self.attention_map(block, x)
            z = self.attend_by(block, x, a)
            x = self.finish(block, x, z)
            see(a, z)
        return self.logits(x)

    def verify(self, images: Tensor) -> None:
        """Compares the parts put together with the model itself.

        Raises:
            UnfitModel: they differ, or the model's outputs are not finite.
        """
        reference = self.model(images).double()
        if not torch.isfinite(reference).all():
            raise UnfitModel("the model's outputs are not finite (NaN or infinite); check its weights")
        difference = (self.watch(images) - reference).abs().max() / reference.abs().max().clamp_min(1e-12)
        if difference > _MAX_DIFFERENCE:
            raise UnfitModel(
                f"{type(self.model).__name__} computes something between its blocks that this analysis does not know: "
                f"its parts give logits {float(difference):.1e} off; plain timm ViT and DeiT models work"
            )

    def _attention_input(self, block: int, x: Tensor) -> Tensor:
        b = self.blocks[block]
        return x if isinstance(b, _vit.ResPostBlock) else b.norm1(x)

    @staticmethod
    def _qkv(attn: Any, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # (B, N, 3 h c) -> (3, B, h, N, c)
        qkv = attn.qkv(y).unflatten(2, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return q, k, v


def check_spec(parts: VitParts, spec: Spec) -> None:
    """Refuses a spec that the model cannot follow without training.

    Raises:
        ValueError: a block or a grid does not exist, or a static block comes after a token reduction.
    """
    spec.check(parts.depth, parts.global_pool)
    spec.grids(parts.depth, parts.grid)
    if spec.static and spec.tokens and spec.static[-1] >= spec.tokens[0].block:
        raise ValueError(f"block {spec.static[-1]} is static after a token reduction; the mean map has all tokens")


def _check(vit: Any) -> None:
    name = type(vit).__name__
    if not isinstance(vit, _vit.VisionTransformer):
        raise UnfitModel(f"{name} is not a plain ViT; give a timm VisionTransformer or DeiT, or a checkpoint of one")
    if isinstance(vit, SkipVisionTransformer):
        raise UnfitModel(
            f"this model has a spec already ({str(vit.spec) or 'empty'}); give the ViT that it was made from"
        )
    if not len(vit.blocks):
        raise UnfitModel(f"{name} has no blocks; give a ViT with at least one")
    for index, block in enumerate(vit.blocks):
        attn = getattr(block, "attn", None)
        if not isinstance(attn, timm.layers.Attention) or not isinstance(block, (_vit.Block, _vit.ResPostBlock)):
            raise UnfitModel(
                f"block {index} is {type(block).__name__} with {type(attn).__name__}, whose attention map is not known "
                "here; plain timm ViT and DeiT models work"
            )
    if vit.num_classes < 2:
        raise UnfitModel(f"{name} has {vit.num_classes} classes; the analysis compares class probabilities")
