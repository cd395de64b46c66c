"""Uformer and SkipAt in it once more, from the papers' formulas, on plain dictionaries of weights: slow and separate.

Tokens are (H, W, C) of one picture in float64. Windows are visited one by one, and a pair of tokens by its coordinates.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def expected_shapes(embed: int, depths: tuple[int, ...], heads: tuple[int, ...], w: int = 8) -> dict[str, list[int]]:
    """Names and shapes of the released weights of a Uformer with modulators."""
    levels = len(depths) // 2
    widths = [embed * 2**i for i in range(levels)]
    dims = [*widths, embed * 2**levels, *(2 * width for width in reversed(widths))]
    names = [
        *(f"encoderlayer_{i}" for i in range(levels)),
        "conv",
        *(f"decoderlayer_{i}" for i in range(levels)),
    ]
    shapes = {"input_proj.proj.0.weight": [embed, 3, 3, 3], "input_proj.proj.0.bias": [embed]}
    shapes |= {"output_proj.proj.0.weight": [3, 2 * embed, 3, 3], "output_proj.proj.0.bias": [3]}
    for i, c in enumerate(widths):
        shapes |= {f"dowsample_{i}.conv.0.weight": [2 * c, c, 4, 4], f"dowsample_{i}.conv.0.bias": [2 * c]}
    for i, c in enumerate(reversed(widths)):
        into = dims[levels + i]
        shapes |= {f"upsample_{i}.deconv.0.weight": [into, c, 2, 2], f"upsample_{i}.deconv.0.bias": [c]}
    for name, c, depth, h in zip(names, dims, depths, heads, strict=True):
        for block in (f"{name}.blocks.{i}." for i in range(depth)):
            if name.startswith("decoder"):
                shapes[block + "modulator.weight"] = [w * w, c]
            shapes |= {block + f"norm{i}.{kind}": [c] for i in (1, 2) for kind in ("weight", "bias")}
            shapes[block + "attn.relative_position_bias_table"] = [(2 * w - 1) ** 2, h]
            shapes[block + "attn.relative_position_index"] = [w * w, w * w]
            for part, rows, columns in (
                ("attn.qkv.to_q", c, c),
                ("attn.qkv.to_kv", 2 * c, c),
                ("attn.proj", c, c),
                ("mlp.linear1.0", 4 * c, c),
                ("mlp.linear2.0", c, 4 * c),
            ):
                shapes |= {block + part + ".weight": [rows, columns], block + part + ".bias": [rows]}
            shapes |= {block + "mlp.dwconv.0.weight": [4 * c, 1, 3, 3], block + "mlp.dwconv.0.bias": [4 * c]}
    return shapes


def norm(x: Tensor, p: Weights, name: str) -> Tensor:
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * p[name + ".weight"] + p[name + ".bias"]


def linear(x: Tensor, p: Weights, name: str) -> Tensor:
    return torch.einsum("...i,oi->...o", x, p[name + ".weight"]) + p[name + ".bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def depthwise(x: Tensor, p: Weights, name: str) -> Tensor:
    weight = p[name + ".weight"]
    r, (H, W, _) = weight.shape[-1], x.shape
    padded = torch.zeros(H + r - 1, W + r - 1, x.shape[2], dtype=x.dtype)
    padded[r // 2 : r // 2 + H, r // 2 : r // 2 + W] = x
    taps = [padded[i : i + H, j : j + W] * weight[:, 0, i, j] for i in range(r) for j in range(r)]
    return torch.stack(taps).sum(dim=0) + p[name + ".bias"]


def window_attention(x: Tensor, p: Weights, name: str, heads: int, w: int, shift: int) -> Tensor:
    """Each token attends to those of its window; rows and columns wrap around, but attention does not."""
    H, W, C = x.shape
    d = C // heads
    table = p[name + "attn.relative_position_bias_table"]
    y = torch.zeros_like(x)
    for top in range(0, H, w):
        for left in range(0, W, w):
            # where the tokens of this window stand in the rolled picture, and in the picture
            rolled = [(top + i, left + j) for i in range(w) for j in range(w)]
            places = [((i + shift) % H, (j + shift) % W) for i, j in rolled]
            tokens = torch.stack([x[place] for place in places])
            if name + "modulator.weight" in p:
                tokens = tokens + p[name + "modulator.weight"]
            q = linear(tokens, p, name + "attn.qkv.to_q")
            k, v = linear(tokens, p, name + "attn.qkv.to_kv").split(C, dim=-1)
            out = []
            for head in range(heads):
                own = slice(head * d, (head + 1) * d)
                logits = q[:, own] @ k[:, own].t() / math.sqrt(d)
                for a, (ai, aj) in enumerate(rolled):
                    for b, (bi, bj) in enumerate(rolled):
                        logits[a, b] += table[(ai - bi + w - 1) * (2 * w - 1) + aj - bj + w - 1, head]
                        wraps = [(i + shift >= H, j + shift >= W) for i, j in ((ai, aj), (bi, bj))]
                        if wraps[0] != wraps[1]:
                            logits[a, b] = -math.inf
                out.append(logits.softmax(dim=-1) @ v[:, own])
            for place, token in zip(places, linear(torch.cat(out, dim=-1), p, name + "attn.proj"), strict=True):
                y[place] = token
    return y


def phi(z: Tensor, p: Weights, name: str) -> Tensor:
    """FC1, GELU, convolution, GELU, FC2, channel gate; then the output projection where there is one."""
    y = gelu(depthwise(gelu(linear(z, p, name + "phi.fc1")), p, name + "phi.dwconv"))
    y = linear(y, p, name + "phi.fc2")
    pooled = F.pad(y.mean(dim=(0, 1)), (1, 1))
    taps = p[name + "phi.eca.weight"].flatten()
    y = y * torch.sigmoid(pooled[:-2] * taps[0] + pooled[1:-1] * taps[1] + pooled[2:] * taps[2])
    return linear(y, p, name + "proj") if name + "proj.weight" in p else y


def stage(
    x: Tensor, p: Weights, name: str, heads: int, w: int, shifts: bool, reused: list[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """All blocks of a stage, and their attention outputs."""
    outputs = []
    for index in range(len({key.split(".")[2] for key in p if key.startswith(name + ".")})):
        block = f"{name}.blocks.{index}."
        if block + "phi.fc1.weight" in p:
            assert reused is not None
            z = phi(reused[index], p, block)
        else:
            shift = w // 2 if index % 2 and shifts else 0
            z = window_attention(norm(x, p, block + "norm1"), p, block, heads, w, shift)
        x = x + z
        hidden = gelu(linear(norm(x, p, block + "norm2"), p, block + "mlp.linear1.0"))
        x = x + linear(gelu(depthwise(hidden, p, block + "mlp.dwconv.0")), p, block + "mlp.linear2.0")
        outputs.append(z)
    return x, outputs


def convolve(x: Tensor, p: Weights, name: str, stride: int = 1) -> Tensor:
    y = F.conv2d(x.movedim(-1, 0)[None], p[name + ".weight"], p[name + ".bias"], stride=stride, padding=1)
    return y[0].movedim(0, -1)


def double(x: Tensor, p: Weights, name: str) -> Tensor:
    """A transposed 2 x 2 convolution of stride 2: every token becomes four."""
    H, W, _ = x.shape
    y = torch.einsum("hwi,ioab->hawbo", x, p[name + ".weight"])
    return y.reshape(2 * H, 2 * W, -1) + p[name + ".bias"]


def uformer(picture: Tensor, p: Weights, heads: tuple[int, ...], w: int) -> Tensor:
    """(3, H, W) to (3, H, W); sides are multiples of what the levels need."""
    levels = len(heads) // 2
    x = F.leaky_relu(convolve(picture.movedim(0, -1), p, "input_proj.proj.0"), 0.01)
    across = []
    for i in range(levels):
        x, outputs = stage(x, p, f"encoderlayer_{i}", heads[i], w, shifts=True)
        across.append((x, outputs))
        x = convolve(x, p, f"dowsample_{i}.conv.0", stride=2)
    x, _ = stage(x, p, "conv", heads[levels], w, shifts=False)
    for i in range(levels):
        tokens, outputs = across.pop()
        x = torch.cat([double(x, p, f"upsample_{i}.deconv.0"), tokens], dim=-1)
        x, _ = stage(x, p, f"decoderlayer_{i}", heads[levels + 1 + i], w, shifts=True, reused=outputs)
    return picture + convolve(x, p, "output_proj.proj.0").movedim(-1, 0)
