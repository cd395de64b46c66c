"""What the authors' released files look like, and the oracle that says what they compute.

The oracle is a forward pass in plain PyTorch over the released names, written from the paper's equations alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
SKIPPED_BLOCKS = range(3, 9)


def released(dim: int, grid: int, patch: int, classes: int, dtype: torch.dtype = torch.float32) -> Weights:
    """A file's weights, random in LayerNorm, gate and biases too, so that nothing left out goes unseen."""
    generator = torch.Generator().manual_seed(dim + grid)

    def random(*shape: int, about: float = 0.0, spread: float = 0.3) -> Tensor:
        return about + spread * torch.randn(shape, generator=generator, dtype=torch.float64)

    weights: Weights = {}

    def linear(name: str, out: int, *inner: int) -> None:
        weights[f"{name}.weight"] = random(out, *inner, spread=1 / math.sqrt(math.prod(inner)))
        weights[f"{name}.bias"] = random(out)

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = random(dim, about=1.0), random(dim)

    weights["cls_token"], weights["pos_embed"] = random(1, 1, dim), random(1, grid * grid + 1, dim)
    linear("patch_embed.proj", dim, 3, patch, patch)
    for i in range(12):
        norm(f"blocks.{i}.norm1")
        linear(f"blocks.{i}.attn.qkv", 3 * dim, dim)
        linear(f"blocks.{i}.attn.proj", dim, dim)
        norm(f"blocks.{i}.norm2")
        linear(f"blocks.{i}.mlp.fc1", 4 * dim, dim)
        linear(f"blocks.{i}.mlp.fc2", dim, 4 * dim)
    for k in range(1, 7):
        linear(f"param_{k}.linear1.0", 2 * dim, dim)
        linear(f"param_{k}.dwconv.0", 2 * dim, 1, 5, 5)
        linear(f"param_{k}.linear2.0", dim, 2 * dim)
        weights[f"param_{k}.eca.conv.weight"] = random(1, 1, 3, spread=1.0)
    norm("norm")
    linear("head", classes, dim)
    return {name: value.to(dtype) for name, value in weights.items()}


def equations(w: Weights, images: Tensor, heads: int) -> Tensor:
    """SkipAt's logits (B, classes) of images (B, 3, H, W) from released weights."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    def msa(x: Tensor, block: str) -> Tensor:
        b, n, d = x.shape
        q, k, v = linear(x, f"{block}.attn.qkv").reshape(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        a = torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(d // heads), dim=-1)
        return linear(torch.einsum("bhij,bhjd->bihd", a, v).reshape(b, n, d), f"{block}.attn.proj")

    def phi(z: Tensor, name: str) -> Tensor:
        b, n, d = z.shape
        side = math.isqrt(n)
        y = gelu(linear(z, f"{name}.linear1.0")).transpose(1, 2).reshape(b, 2 * d, side, side)
        kernel, bias = w[f"{name}.dwconv.0.weight"], w[f"{name}.dwconv.0.bias"]
        y = gelu(F.conv2d(y, kernel, bias, padding=2, groups=2 * d))
        y = linear(y.flatten(2).transpose(1, 2), f"{name}.linear2.0")
        pooled = F.pad(y.mean(dim=1), (1, 1))  # (B, 1 + d + 1): one zero at each end of the channels
        taps = w[f"{name}.eca.conv.weight"].flatten()
        mixed = taps[0] * pooled[:, :-2] + taps[1] * pooled[:, 1:-1] + taps[2] * pooled[:, 2:]
        return y * torch.sigmoid(mixed)[:, None, :]

    kernel = w["patch_embed.proj.weight"]
    patches = F.unfold(images, kernel.shape[-1], stride=kernel.shape[-1]).transpose(1, 2)
    x = patches @ kernel.flatten(1).T + w["patch_embed.proj.bias"]
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], dim=1) + w["pos_embed"]
    z = x  # replaced in block 0
    for i in range(12):
        block = f"blocks.{i}"
        if i in SKIPPED_BLOCKS:
            z = torch.cat([z[:, :1], phi(z[:, 1:], f"param_{i - 2}")], dim=1)
        else:
            z = msa(norm(x, f"{block}.norm1"), block)
        x = z + x
        x = x + linear(gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    return linear(norm(x, "norm")[:, 0], "head")
