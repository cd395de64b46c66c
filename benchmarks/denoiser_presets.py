"""Parameters and multiply-accumulates of the Uformers on 256 x 256 pixels, counted and by closed forms, and published.

P pixels of a stage, c its channels, h its heads, N = 64 tokens of a window, k the side of Φ's convolution, b and x the
channels that Φ takes and those between its layers, a the channels that come up from below. What one picture costs:

    3 x 3 in, out  9 * 3 * (C + 2C) P             parameters 27 C + C, and 54 C + 3
    down           16 c 2c P/4                    parameters 32 c² + 2c
    up to c        a c P                          parameters 4 a c + c         (P of the result)
    attention      4 c² P + 2 N c P               parameters 4 c² + 4c + 225 h, 2c of norm1, N c of a modulator
    Φ              (b x + k² x + x c) P + 3 c     parameters b x + x + k² x + x + x c + c + 3
    its proj       c² P                           parameters c² + c
    LeFF           (8 c² + 36 c) P                parameters 8 c² + 45 c, and 2c of norm2

Uformer's authors count 4 a c P for going up, and c P for each norm; SkipAt's paper plots figures that start from
theirs. So that column is theirs: it is the one to hold against what is published.
"""

from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from skipvit.complexity import count_macs, count_params
from skipvit.models import create_model

SIZES = ("micro", "tiny", "small", "base")
# GMACs: Uformer's from its paper, SkipAt's as plotted, to whole ones.
PUBLISHED = {
    "uformer_tiny": "12",
    "uformer_small": "44",
    "uformer_base": "89.5",
    "skipat_uformer_tiny": "11",
    "skipat_uformer_small": "39",
    "skipat_uformer_base": "79",
}
_PIXELS, _TOKENS = 256, 64
_DEEP = (2, 2, 2, 2, 2, 2, 2, 2, 2)
_HEADS = (1, 2, 4, 8, 16, 16, 8, 4, 2)


@dataclass(frozen=True)
class Shape:
    """What the closed forms need to know: channels of the first stage, blocks and heads of all, and Φ where it is."""

    dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    skips: bool
    phi_proj: bool


@dataclass(frozen=True)
class Cost:
    """Parameters, multiply-accumulates, and what Uformer's authors count beyond those."""

    params: int
    macs: int
    beyond: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.params + other.params, self.macs + other.macs, self.beyond + other.beyond)


_SHAPES: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "micro": (16, (1, 1, 1, 1, 1), (1, 2, 4, 4, 2)),
    "tiny": (16, _DEEP, _HEADS),
    "small": (32, _DEEP, _HEADS),
    "base": (32, (1, 2, 8, 8, 2, 8, 8, 2, 1), _HEADS),
}


def names() -> list[str]:
    """Every Uformer of this package, the plain one of a size before SkipAt's."""
    return [f"{family}_{size}" for size in SIZES for family in ("uformer", "skipat_uformer")]


def table(chosen: list[str] | None = None) -> list[dict[str, object]]:
    """A row a preset."""
    return [row(name) for name in tqdm(chosen or names(), desc="denoisers", unit="model", leave=False)]


def row(name: str) -> dict[str, object]:
    """What was counted, what the closed forms say, whether these are equal to the last unit, and what is published."""
    with torch.device("meta"):  # shapes alone: no weights are made and nothing is computed
        model: Any = create_model(name).eval()
        counted = count_params(model), count_macs(model, torch.zeros(1, 3, _PIXELS, _PIXELS))
    cost = by_hand(shape_of(name))
    return {
        "name": name,
        "skip": model.skip or "-",
        "params": counted[0],
        "params_by_hand": cost.params,
        "gmacs": f"{counted[1] / 1e9:.4f}",
        "gmacs_by_hand": f"{cost.macs / 1e9:.4f}",
        "gmacs_as_authors_count": f"{(cost.macs + cost.beyond) / 1e9:.2f}",
        "gmacs_published": PUBLISHED.get(name, "-"),
        "equal": "yes" if counted == (cost.params, cost.macs) else "NO",
    }


def shape_of(name: str) -> Shape:
    """The shape of a preset."""
    family, size = name.rsplit("_", 1)
    return Shape(*_SHAPES[size], skips=family.startswith("skipat"), phi_proj=size != "micro")


def by_hand(shape: Shape) -> Cost:
    """The cost of a Uformer of ``shape``; see the head of this file."""
    levels, e = len(shape.depths) // 2, shape.dim
    total = Cost(28 * e + 54 * e + 3, 81 * e * _pixels(0))
    for index, (depth, heads) in enumerate(zip(shape.depths, shape.heads, strict=True)):
        level = levels - abs(index - levels)  # 0 at full resolution
        decodes, pixels = index > levels, _pixels(level)
        c = e * 2**level * (2 if decodes else 1)
        for _ in range(depth):
            skips = shape.skips and decodes
            first = _phi(c, pixels, shape.phi_proj) if skips else _attention(c, pixels, heads, decodes)
            total += first + Cost(8 * c * c + 47 * c, (8 * c * c + 36 * c) * pixels, c * pixels)
        if index < levels:
            total += Cost(32 * c * c + 2 * c, 8 * c * c * pixels)
        if decodes:
            below, own = (c if index == levels + 1 else 2 * c), c // 2
            total += Cost(4 * below * own + own, below * own * pixels, 3 * below * own * pixels)
    return total


def _pixels(level: int) -> int:
    return (_PIXELS >> level) ** 2


def _attention(c: int, pixels: int, heads: int, modulated: bool) -> Cost:
    params = 4 * c * c + 4 * c + 225 * heads + 2 * c + (_TOKENS * c if modulated else 0)
    return Cost(params, (4 * c * c + 2 * _TOKENS * c) * pixels, c * pixels)


def _phi(c: int, pixels: int, proj: bool) -> Cost:
    b, x, taps = c // 2, c, 25  # from the encoder's channels through twice as many to the decoder's
    phi = Cost(b * x + x + taps * x + x + x * c + c + 3, (b * x + taps * x + x * c) * pixels + 3 * c)
    return phi + Cost(c * c + c, c * c * pixels) if proj else phi
