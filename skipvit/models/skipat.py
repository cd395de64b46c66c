"""SkipAt-ViT (arXiv 2301.02240): layers that reuse the attention output of an earlier layer through Φ.

In a skipped block l there is no attention:  Ẑ_l = Φ_l(Ẑ_{l-1}),  Z_l = Ẑ_l + Z_{l-1},  Z_l ← Z_l + MLP(LN2(Z_l)).
Φ sees patch tokens; the rows of class and register tokens are those of the last computed attention, unchanged.

B batch, N tokens, n patch tokens, p prefix tokens (N = p + n), C channels, H x W the patch grid.

Differences from the paper and its released code:
  - Skipped blocks hold no attention and no norm1; the released code keeps both as dead weights.
  - The chain of Φ restarts after every computed attention, as the paper's equation says. The released code carries a
    stale Φ output into a second run of skipped blocks; for its contiguous default the two are the same.
  - Weights start as timm's ViT starts (truncated normal, std 0.02); the released code ends up with PyTorch's defaults.
  - Any grid, any number of prefix tokens, any skip set whose last block computes attention.

The ops of Φ have autograd rules but none for torch.func's transforms: per-sample gradients by functorch are not there.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skipvit.layers.phi import Phi
from skipvit.models.timm_guard import timm

Grid = tuple[int, int]
_Block: Any = timm.models.vision_transformer.Block
_VisionTransformer: Any = timm.models.vision_transformer.VisionTransformer
# The released models' choice for 12 blocks, counted from 0.
PAPER_SKIP = (3, 4, 5, 6, 7, 8)


class AttentionBlock(_Block):
    """timm's ViT block, which also hands on its attention output Ẑ (after proj, before LayerScale and drop path)."""

    def forward(self, x: Tensor, z: Tensor | None, grid: Grid) -> tuple[Tensor, Tensor]:
        z = self.attn(self.norm1(x))
        x = x + self.drop_path1(self.ls1(z))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x, z


class SkipBlock(nn.Module):
    """A block that owns Φ in place of norm1 and attn; its MLP half is taken over from ``block``.

    Args:
        block: the attention block whose place it takes.
        phi: the parametric function.
        num_prefix_tokens: leading tokens that Φ does not see.
    """

    def __init__(self, block: Any, phi: Phi, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.phi = phi
        self.ls1, self.drop_path1 = block.ls1, block.drop_path1
        self.norm2, self.mlp, self.ls2, self.drop_path2 = block.norm2, block.mlp, block.ls2, block.drop_path2

    def forward(self, x: Tensor, z: Tensor | None, grid: Grid) -> tuple[Tensor, Tensor]:
        """Residual stream x and last attention output z, both (B, N, C), to their next values."""
        assert z is not None, "the model guarantees that its first block computes attention"
        p = self.num_prefix_tokens
        z = torch.cat([z[:, :p], self.phi(z[:, p:].contiguous(), grid)], dim=1)  # (B, p + n, C)
        x = x + self.drop_path1(self.ls1(z))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x, z


class SkipAtVisionTransformer(_VisionTransformer):
    """timm's VisionTransformer with some blocks skipping attention.

    It takes every argument of timm's but block_fn, patch_drop_rate, fix_init, and attention masks.

    Args:
        skip: indices, counted from 0, of the blocks that reuse attention. () is timm's ViT bit for bit.
        phi_expansion: hidden channels of Φ over embed_dim.
        phi_kernel_size: odd size of Φ's depthwise convolution.

    Raises:
        ValueError: the skip set cannot work, or an option does not go together with skipping.
    """

    def __init__(
        self,
        *args: Any,
        skip: Sequence[int] = PAPER_SKIP,
        phi_expansion: float = 2.0,
        phi_kernel_size: int = 5,
        **kwargs: Any,
    ) -> None:
        weight_init = kwargs.pop("weight_init", "")
        if kwargs.get("patch_drop_rate", 0.0) > 0:
            raise ValueError("patch_drop_rate leaves holes in the patch grid that Φ convolves over; set it to 0")
        if kwargs.pop("fix_init", False):
            raise ValueError("fix_init scales attn.proj, which skipped blocks do not have; leave it off")
        # Initialisation runs once, below, when all blocks are the final ones.
        super().__init__(*args, **kwargs, block_fn=AttentionBlock, weight_init="skip")
        self.skip = check_skip(skip, len(self.blocks), self.global_pool)
        like = next(self.parameters())
        for index in self.skip:
            phi = Phi(self.embed_dim, phi_expansion, phi_kernel_size, device=like.device, dtype=like.dtype)
            self.blocks[index] = SkipBlock(self.blocks[index], phi, self.num_prefix_tokens)
        if weight_init != "skip":
            self.weight_init_mode = weight_init
            self.init_weights(weight_init, needs_reset=False)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """timm's reset_classifier, refusing a pooling that the skip set cannot serve."""
        # features_only cuts trailing blocks off before it comes here.
        self.skip = tuple(index for index in self.skip if index < len(self.blocks))
        check_skip(self.skip, len(self.blocks), self.global_pool if global_pool is None else global_pool)
        super().reset_classifier(num_classes, global_pool)

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Images (B, in_chans, height, width) to normalised tokens (B, N, C).

        Raises:
            ValueError: a mask was given; Φ has no notion of one.
        """
        if attn_mask is not None or is_causal:
            raise ValueError("attention masks cannot be honoured in blocks that compute no attention; pass none")
        tokens, grid = self._embed(x)
        for output in self._run_blocks(tokens, grid):
            tokens = output
        return self.norm(tokens)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Images (B, in_chans, height, width) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x, attn_mask, is_causal))

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        grid = self.patch_embed.dynamic_feat_size((x.shape[-2], x.shape[-1]))
        return self.norm_pre(self._pos_embed(self.patch_embed(x))), grid

    def _run_blocks(self, x: Tensor, grid: Grid, stop: int | None = None) -> Iterator[Tensor]:
        """Yields the residual stream (B, N, C) after each block, up to and without block ``stop``."""
        z: Tensor | None = None
        for block in self.blocks[:stop]:
            if self.grad_checkpointing:
                x, z = checkpoint(block, x, z, grid, use_reentrant=False)
            else:
                x, z = block(x, z, grid)
            yield x

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
        """timm's forward_intermediates: block outputs as maps (B, C, H, W), or tokens (B, n, C) for "NLC"."""
        if attn_mask is not None or is_causal:
            raise ValueError("attention masks cannot be honoured in blocks that compute no attention; pass none")
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt is NCHW or NLC, got {output_fmt!r}")
        take, last = timm.models._features.feature_take_indices(len(self.blocks), indices)
        tokens, (grid_h, grid_w) = self._embed(x)
        taken = []
        for index, output in enumerate(self._run_blocks(tokens, (grid_h, grid_w), last + 1 if stop_early else None)):
            tokens = output
            if index in take:
                taken.append(self.norm(tokens) if norm else tokens)
        prefix = [y[:, : self.num_prefix_tokens] for y in taken]
        maps = [y[:, self.num_prefix_tokens :] for y in taken]
        if output_fmt == "NCHW":  # (B, n, C) -> (B, C, H, W)
            maps = [y.transpose(1, 2).reshape(y.shape[0], -1, grid_h, grid_w) for y in maps]
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


def check_skip(skip: Sequence[int], depth: int, global_pool: str) -> tuple[int, ...]:
    """Returns the skip set sorted.

    Raises:
        ValueError: an index is no block, is given twice, leaves nothing to reuse, or cannot reach the output.
    """
    chosen = tuple(sorted(skip))
    outside = [index for index in chosen if not 0 <= index < depth]
    if outside:
        raise ValueError(
            f"skip names blocks {outside}, but the model has blocks 0 to {depth - 1}; correct the skip set"
        )
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"skip names a block twice: {list(skip)}; name each once")
    if chosen and chosen[0] == 0:
        raise ValueError(
            "block 0 cannot skip: no earlier attention is there to reuse; start the skip set at 1 or later"
        )
    if chosen and chosen[-1] == depth - 1 and global_pool == "token":
        raise ValueError(
            f"block {depth - 1} is the last and cannot skip under a class-token head: Φ changes patch tokens only, and "
            "no later block would read them; leave it out of skip, or use global_pool='avg'"
        )
    return chosen
