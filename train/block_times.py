"""What a block of each kind takes on this machine in PyTorch, and from that the predicted speed of any spec.

Pieces take turns, and a piece's time is the median of its turns; see train/speed.py.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipvit.complexity import count_macs
from skipvit.layers.phi import make_phi
from skipvit.layers.static_attention import StaticAttention
from skipvit.layers.token_pyramid import TokenPyramid
from skipvit.models.blocks import AttentionBlock, SkipBlock
from skipvit.models.choices import Choices
from skipvit.models.spec import Grid, Kind, Reduction, Spec
from train.probes import SHARES
from train.speed import clock_of, interleaved
from train.vit_parts import VitParts

_CPU_MACS, _GPU_MACS = 2e10, 2e12  # work of one forward pass to time: long beside the clock's grain
_CPU_IMAGES, _GPU_IMAGES = (4, 64), (32, 512)
_ROUNDS = 9


@dataclass(frozen=True)
class BlockTimes:
    """Seconds an image; grids are (rows, columns) of patch tokens.

    Attributes:
        blocks: by what the block does and the grid it works on; static ones on the full grid only.
        pyramids: by the grids before and after.
        batch: images in a timed forward pass.
        clock: in words, what was measured.
    """

    depth: int
    grid: Grid
    embed: float
    head: float
    blocks: Mapping[tuple[Kind, Grid], float]
    pyramids: Mapping[tuple[Grid, Grid], float]
    batch: int
    clock: str

    def seconds(self, spec: Spec) -> float:
        """Predicted seconds an image of a model under a spec whose sizes are those that were measured."""
        total, now = self.embed + self.head, self.grid
        for block, grid in enumerate(spec.grids(self.depth, self.grid)):
            if grid != now:
                total += self.pyramids[now, grid]
            total += self.blocks[spec.kind(block), grid]
            now = grid
        return total

    def speed(self, spec: Spec) -> float:
        """Predicted speed of a spec, in times the plain ViT's."""
        return self.seconds(Spec()) / self.seconds(spec)


def timed_batch(parts: VitParts, macs: int) -> int:
    """How many images a timed forward pass takes, for a model of so many multiply-accumulates an image."""
    work, (least, most) = (_CPU_MACS, _CPU_IMAGES) if parts.device.type == "cpu" else (_GPU_MACS, _GPU_IMAGES)
    return max(least, min(most, round(work / macs)))


def macs_of(parts: VitParts) -> int:
    """Multiply-accumulates of the model for one image."""
    size = (1, 3, parts.preprocessing.height, parts.preprocessing.width)
    like = next(parts.model.parameters())
    return count_macs(parts.model, torch.zeros(size, dtype=like.dtype, device=like.device))


def noise(parts: VitParts, batch: int) -> Tensor:
    """Inputs (B, 3, height, width) of the model to time it with; speed does not depend on what they show."""
    like = next(parts.model.parameters())
    shape = (batch, 3, parts.preprocessing.height, parts.preprocessing.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like)


def measure_blocks(parts: VitParts, batch: int, progress: Callable[[int], None] = lambda _: None) -> BlockTimes:
    """Times each kind of block at each size that the search uses; ``progress`` hears of each of `ROUNDS` rounds."""
    pieces = dict(_pieces(parts, batch))
    medians = interleaved(parts.device, pieces, _ROUNDS, progress)
    per_image: dict[Any, float] = {name: seconds / batch for name, seconds in medians.items()}
    return BlockTimes(
        depth=parts.depth,
        grid=parts.grid,
        embed=per_image["embed", ()],
        head=per_image["head", ()],
        blocks={(kind, of[0]): s for (kind, of), s in per_image.items() if kind in ("dynamic", "static", "skip")},
        pyramids={(of[0], of[1]): s for (kind, of), s in per_image.items() if kind == "pyramid"},
        batch=batch,
        clock=clock_of(parts.device),
    )


Piece = tuple[str, tuple[Grid, ...]]


def _pieces(parts: VitParts, batch: int) -> Iterator[tuple[Piece, Callable[[], object]]]:
    images, choices = noise(parts, batch), Choices()
    state = parts.embed(images)
    yield ("embed", ()), lambda: parts.embed(images)
    grids = _grids(parts)
    like = state.x
    for grid in grids:
        x = parts.pool(state.x, parts.grid, grid)
        for kind in ("dynamic", "skip", "static"):
            if kind != "static" or grid == parts.grid:
                yield (kind, (grid,)), _block(parts, kind, x, grid, choices)
    for before in grids:
        for after in grids:
            if after[0] * after[1] < before[0] * before[1]:
                pyramid = TokenPyramid(like.shape[-1], before, after, parts.prefix, choices.pyramid).to(like).eval()
                yield ("pyramid", (before, after)), _call(pyramid, parts.pool(state.x, parts.grid, before))
    last = parts.pool(state.x, parts.grid, grids[-1])
    yield ("head", ()), lambda: parts.logits(last)


def _block(parts: VitParts, kind: Kind, x: Tensor, grid: Grid, choices: Choices) -> Callable[[], object]:
    """One block of a kind, of the weights of the middle one."""
    original: Any = parts.blocks[parts.depth // 2]
    if kind == "dynamic":
        return _call(original, x)
    block = copy.deepcopy(original)
    if kind == "static":
        block.attn = StaticAttention(block.attn, x.shape[1], choices.static_form, choices.static_rank)
        return _call(AttentionBlock(block).to(x).eval(), x, None, grid)
    return _call(_skip_block(parts, block, choices).to(x).eval(), x, x, grid)


def _skip_block(parts: VitParts, block: Any, choices: Choices) -> nn.Module:
    phi = make_phi(choices.phi, parts.model.embed_dim, choices.phi_expansion, choices.phi_kernel_size)
    return SkipBlock(block, phi, parts.prefix)


def _grids(parts: VitParts) -> list[Grid]:
    """The full grid, and those that a share of its tokens forms, largest first."""
    found = [parts.grid]
    for share in SHARES:
        try:
            grid = Spec(tokens=(Reduction(parts.depth - 1, share),)).grids(parts.depth, parts.grid)[-1]
        except ValueError:
            continue
        if grid not in found:
            found.append(grid)
    return found


def _call(module: Any, *inputs: object) -> Callable[[], object]:
    return lambda: module(*inputs)
