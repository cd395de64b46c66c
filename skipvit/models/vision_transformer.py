"""One family of ViTs: a spec says which blocks skip attention or make it static, and where tokens shrink.

SkipAt (arXiv 2301.02240), in a skipped block l:  Ẑ_l = Φ_l(Ẑ_{l-1}),  Z_l = Ẑ_l + Z_{l-1},  Z_l ← Z_l + MLP(LN2(Z_l)).
Φ sees patch tokens; the rows of class and register tokens are those of the last computed attention, unchanged.
DGSSA and GLAD (arXiv 2310.07664): see skipvit/layers/static_attention.py and token_pyramid.py.

B batch, N tokens, n patch tokens, p prefix tokens (N = p + n), C channels, H x W the patch grid.

Differences from the papers and the released code:
  - Skipped blocks hold no attention and no norm1; the released code keeps both as dead weights.
  - The chain of Φ restarts after every computed attention, as the paper's equation says. The released code carries a
    stale Φ output into a second run of skipped blocks; for its contiguous default the two are the same.
  - Weights start as timm's ViT starts (truncated normal, std 0.02); the released code ends up with PyTorch's defaults.
  - Any grid, any number of prefix tokens, any skip set whose last block computes attention.
  - Static attention and the token pyramid are a reconstruction from the abstract. Where tokens shrink right before a
    skipped block, the attention output that it reuses shrinks by the same matrix, which neither paper speaks of.

The ops have autograd rules but none for torch.func's transforms: per-sample gradients by functorch are not there.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skipvit.layers.static_attention import StaticAttention
from skipvit.layers.token_pyramid import TokenPyramid, unpool
from skipvit.models.blocks import SkipBlock
from skipvit.models.choices import Choices
from skipvit.models.spec import Grid, Spec, as_spec
from skipvit.models.timm_guard import timm

_vit: Any = timm.models.vision_transformer
_VisionTransformer: Any = _vit.VisionTransformer


class SkipVisionTransformer(_VisionTransformer):
    """timm's VisionTransformer under a spec. An empty spec is timm's ViT bit for bit.

    It takes every argument of timm's but block_fn, patch_drop_rate, fix_init, and attention masks; further ones are
    those of `Choices`.

    Args:
        spec: text such as ``static:0-2 skip:4-8 tokens:98@3,49@6``, or a Spec.
        skip: short for a spec that only skips; replaces the blocks that ``spec`` skips.

    Raises:
        ValueError: the spec cannot work, or an option does not go together with it.
    """

    spec: Spec

    def __init__(self, *args: Any, spec: Spec | str = "", skip: Sequence[int] | None = None, **kwargs: Any) -> None:
        weight_init = kwargs.pop("weight_init", "")
        if kwargs.get("patch_drop_rate", 0.0) > 0:
            raise ValueError("patch_drop_rate leaves holes in the patch grid; set it to 0")
        if kwargs.pop("fix_init", False):
            raise ValueError("fix_init scales attn.proj, which skipped blocks do not have; leave it off")
        choices = Choices(**{name: kwargs.pop(name) for name in Choices.__dataclass_fields__ if name in kwargs})
        # Initialisation runs once, below, when all blocks are the final ones.
        super().__init__(*args, **kwargs, weight_init="skip")
        chosen = as_spec(spec)
        self._take_spec(chosen if skip is None else Spec(chosen.static, tuple(skip), chosen.tokens), choices)
        if weight_init != "skip":
            self.weight_init_mode = weight_init
            self.init_weights(weight_init, needs_reset=False)

    @classmethod
    def from_vit(cls, vit: nn.Module, spec: Spec | str, choices: Choices | None = None) -> Self:
        """A copy of timm's ViT under a spec, with its weights: Φ fresh, pyramids pooling, static matrices fresh.

        Raises:
            ValueError: it is no plain ViT of timm's, or the spec cannot work.
        """
        if type(vit) is not _VisionTransformer:
            raise ValueError(
                f"only timm's plain VisionTransformer can take a spec, this is a {type(vit).__name__}; "
                "ViT and DeiT without distillation token, DINO and most CLIP towers are"
            )
        model = cls.__new__(cls)
        # All that an nn.Module is lies in its __dict__; timm's configurations are too many to build each anew.
        model.__dict__.update(copy.deepcopy(vit.__dict__))
        model._take_spec(as_spec(spec), choices or Choices())
        for block in model.blocks:
            if isinstance(block, SkipBlock):  # as init_weights starts it: Φ says little before it has learned
                block.phi.apply(_vit.init_weights_vit_timm)
        return model.train(vit.training)

    def _take_spec(self, spec: Spec, choices: Choices) -> None:
        spec.check(len(self.blocks), self.global_pool)
        if not isinstance(self.patch_drop, nn.Identity):
            raise ValueError("patch dropout leaves holes in the patch grid; set patch_drop_rate to 0")
        odd = sorted({type(b).__name__ for b in self.blocks if type(b) is not _vit.Block})
        if odd:
            raise ValueError(f"blocks of {', '.join(odd)} cannot take a spec; only timm's plain Block can")
        if self.dynamic_img_size and (spec.static or spec.tokens):
            raise ValueError(
                "static attention and token pyramids belong to one picture size; "
                "build the model with dynamic_img_size=False and an img_size"
            )
        if spec.static and choices.static_class_row == "dynamic" and not self.has_class_token:
            raise ValueError("static_class_row='dynamic' is the class token's row, and this model has no class token")
        self.spec, self.choices = spec, choices
        grids = [(0, 0)] * len(self.blocks) if self.dynamic_img_size else self._grids()
        like = next(self.parameters())
        self.pyramids = nn.ModuleDict()
        for index, block in enumerate(self.blocks):
            self.blocks[index] = choices.make_block(
                spec.kind(index), block, self.embed_dim, grids[index], self.num_prefix_tokens
            )
        for reduction in spec.tokens:
            before = self._grid_before(reduction.block, grids)
            after = grids[reduction.block]
            pyramid = TokenPyramid(self.embed_dim, before, after, self.num_prefix_tokens, choices.pyramid)
            self.pyramids[str(reduction.block)] = pyramid.to(like)

    def _grids(self) -> list[Grid]:
        return self.spec.grids(len(self.blocks), self.patch_embed.grid_size)

    def _grid_before(self, block: int, grids: Sequence[Grid]) -> Grid:
        return grids[block - 1] if block else self.patch_embed.grid_size

    def set_guide(self, strength: float) -> None:
        """λ of all guided static blocks: 0 is the dynamic attention, 1 the static matrix.

        Raises:
            ValueError: it is outside 0..1.
        """
        if not 0 <= strength <= 1:
            raise ValueError(f"the guide's strength goes from 0 to 1, got {strength}")
        for attention in self._guided():
            attention.guide.fill_(strength)

    def guide_loss(self) -> Tensor:
        """Mean over guided blocks of KL(A ‖ S) a row, of the last forward pass, once; A is not taught.

        Raises:
            ValueError: no block is guided, or no forward pass was made.
        """
        losses = [attention.guide_loss for attention in self._guided() if attention.guide_loss is not None]
        for attention in self._guided():
            attention.guide_loss = None  # it holds its graph, and no module with one can be copied
        if not losses:
            raise ValueError("no static block is guided, or none has seen a picture since; build with static_guided")
        return torch.stack(losses).mean()

    def _guided(self) -> list[StaticAttention]:
        return [m for m in self.modules() if isinstance(m, StaticAttention) and m.guided]

    def no_weight_decay(self) -> set[str]:
        """timm's, and the logits of matrices, which decay would only flatten."""
        logits = {name for name, _ in self.named_parameters() if name.endswith((".logits", ".left", ".right"))}
        timms: set[str] = super().no_weight_decay()
        return timms | logits

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's groups for layer-wise learning rates; a pyramid belongs to the block that it stands before."""
        found: dict[str, Any] = super().group_matcher(coarse)
        # the first pattern that fits decides
        return {**found, "blocks": [(r"^pyramids\.(\d+)", None), *found["blocks"]]}

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """timm's reset_classifier, refusing a pooling that the spec cannot serve."""
        # features_only cuts trailing blocks off before it comes here.
        self.spec = self.spec.first(len(self.blocks))
        self.pyramids = nn.ModuleDict({k: v for k, v in self.pyramids.items() if int(k) < len(self.blocks)})
        self.spec.check(len(self.blocks), self.global_pool if global_pool is None else global_pool)
        super().reset_classifier(num_classes, global_pool)

    def set_input_size(self, img_size: Grid | int | None = None, patch_size: Grid | None = None) -> None:
        """timm's set_input_size, which also carries static matrices and pyramids over to the new grid.

        Raises:
            ValueError: the spec does not fit the new grid; the model is then unchanged.
        """
        size = (img_size, img_size) if isinstance(img_size, int) else img_size
        embed = copy.deepcopy(self.patch_embed)
        embed.set_input_size(size, patch_size)
        old, new = self._grids(), self.spec.grids(len(self.blocks), embed.grid_size)
        super().set_input_size(size, patch_size)
        for index in self.spec.static:
            attention: Any = self.blocks[index].attn
            attention.resample(old[index], new[index], self.num_prefix_tokens)
        for reduction in self.spec.tokens:
            pyramid: Any = self.pyramids[str(reduction.block)]
            pyramid.resample(self._grid_before(reduction.block, new), new[reduction.block])

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Images (B, in_chans, height, width) to normalised tokens (B, N, C), of the grid that the last block has.

        Raises:
            ValueError: a mask was given; Φ and static attention have no notion of one.
        """
        _refuse_mask(attn_mask, is_causal)
        tokens, grid = self._embed(x)
        for step in self._run_blocks(tokens, grid):
            tokens = step.tokens
        return self.norm(tokens)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Images (B, in_chans, height, width) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x, attn_mask, is_causal))

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        grid = self.patch_embed.dynamic_feat_size((x.shape[-2], x.shape[-1]))
        return self.norm_pre(self._pos_embed(self.patch_embed(x))), grid

    def _run_blocks(self, x: Tensor, grid: Grid, stop: int | None = None) -> Iterator["Step"]:
        """Yields the residual stream after each block, up to and without block ``stop``."""
        z: Tensor | None = None
        matrices: tuple[Tensor, ...] = ()
        for index, block in enumerate(self.blocks[:stop]):
            if (key := str(index)) in self.pyramids:
                x, z, matrix = self.pyramids[key](x, z if isinstance(block, SkipBlock) else None)
                grid, matrices = self._shrunk_grid(key), (*matrices, matrix)
            if self.grad_checkpointing:
                x, z = checkpoint(block, x, z, grid, use_reentrant=False)
            else:
                x, z = block(x, z, grid)
            yield Step(x, matrices)

    def _shrunk_grid(self, key: str) -> Grid:
        pyramid: Any = self.pyramids[key]
        return pyramid.grid_out

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Any:
        """timm's forward_intermediates: block outputs as maps (B, C, H, W), or tokens (B, n, C) for "NLC".

        Where tokens have shrunk, maps are un-pooled to the patch grid of the picture, as dense heads need them.
        """
        _refuse_mask(attn_mask, is_causal)
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt is NCHW or NLC, got {output_fmt!r}")
        take, last = timm.models._features.feature_take_indices(len(self.blocks), indices)
        tokens, (grid_h, grid_w) = self._embed(x)
        prefix, maps = [], []
        for index, step in enumerate(self._run_blocks(tokens, (grid_h, grid_w), last + 1 if stop_early else None)):
            tokens = step.tokens
            if index in take:
                taken = self.norm(tokens) if norm else tokens
                prefix.append(taken[:, : self.num_prefix_tokens])
                maps.append(step.unpooled(taken[:, self.num_prefix_tokens :]))
        if output_fmt == "NCHW":  # (B, n, C) -> (B, C, H, W)
            maps = [y.transpose(1, 2).reshape(y.shape[0], -1, grid_h, grid_w).contiguous() for y in maps]
        with_prefix = return_prefix_tokens and self.num_prefix_tokens > 0
        if output_dict:
            found: dict[str, Any] = {"image_intermediates": maps}
            if with_prefix:
                found["image_intermediates_prefix"] = prefix
            if not intermediates_only:
                found["image_features"] = self.norm(tokens)
            return found
        intermediates = list(zip(maps, prefix, strict=True)) if with_prefix else maps
        return intermediates if intermediates_only else (self.norm(tokens), intermediates)


@dataclass(frozen=True)
class Step:
    """The residual stream (B, N, C) after a block, and the pyramids' matrices up to there."""

    tokens: Tensor
    matrices: tuple[Tensor, ...]

    def unpooled(self, patches: Tensor) -> Tensor:
        """Patch tokens (B, m, C) of this step as (B, n, C) on the grid of the picture."""
        for matrix in reversed(self.matrices):
            patches = unpool(patches, matrix)
        return patches


def _refuse_mask(attn_mask: Tensor | None, is_causal: bool) -> None:
    if attn_mask is not None or is_causal:
        raise ValueError("attention masks cannot be honoured in blocks that compute no attention; pass none")
