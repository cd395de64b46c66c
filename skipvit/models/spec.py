"""Which block of a ViT does what, in one line: ``static:0-2 skip:4-8 tokens:98@3,49@6``.

    static:0-2        blocks 0, 1 and 2 use a static attention matrix                          (DGSSA)
    skip:4-8,10       blocks 4 to 8 and 10 reuse the attention output before them through Φ    (SkipAt)
    tokens:98@3       before block 3, the patch tokens shrink to 98                            (GLAD)

A size is a count (98), a grid (14x7), or a fraction of the model's patch tokens (1/2), which holds at any resolution.
Blocks are counted from 0; a block that is not named computes attention as ever. Nothing here imports torch.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal

Grid = tuple[int, int]
Kind = Literal["dynamic", "static", "skip"]
Size = int | Fraction | Grid

_LONGEST = 1000  # characters of a spec; a range may name many blocks in few of them
_MOST_PATCHES = 2**18  # 8192 x 8192 pixels in patches of 16: all grids within one are tried
_SHOWN = 8  # blocks in a message
_HINT = "write it like 'static:0-2 skip:4-8 tokens:98@3,49@6', each part at most once"


@dataclass(frozen=True)
class Reduction:
    """Before ``block``, the patch tokens shrink to ``size``."""

    block: int
    size: Size

    def __str__(self) -> str:
        size = "x".join(map(str, self.size)) if isinstance(self.size, tuple) else str(self.size)
        return f"{size}@{self.block}"


@dataclass(frozen=True)
class Spec:
    """The blocks that are not plain attention, and where tokens shrink. Fields are sorted; ``str`` gives the text."""

    static: tuple[int, ...] = ()
    skip: tuple[int, ...] = ()
    tokens: tuple[Reduction, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "static", _once("static", self.static))
        object.__setattr__(self, "skip", _once("skip", self.skip))
        object.__setattr__(self, "tokens", tuple(sorted(self.tokens, key=lambda r: r.block)))
        _once("tokens", [reduction.block for reduction in self.tokens])
        if both := sorted(set(self.static) & set(self.skip)):
            raise ValueError(f"blocks {both} are both static and skipped; name each block once")

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Reads the text form; "" is a plain ViT.

        Raises:
            ValueError: it cannot be read, or names a block twice.
        """
        if not isinstance(text, str) or len(text) > _LONGEST:  # it may come from a stranger's JSON
            what = f"text of {len(text)} characters" if isinstance(text, str) else f"a {type(text).__name__}"
            raise ValueError(f"a spec is a text of up to {_LONGEST} characters, got {what}; {_HINT}")
        found: dict[str, str] = {}
        for part in text.split():
            kind, colon, items = part.partition(":")
            if not colon or not items or kind not in ("static", "skip", "tokens") or kind in found:
                raise ValueError(f"spec {text!r} cannot be read at {part!r}; {_HINT}")
            found[kind] = items
        return cls(
            static=tuple(_indices(found.get("static", ""), text)),
            skip=tuple(_indices(found.get("skip", ""), text)),
            tokens=tuple(_reduction(item, text) for item in _items(found.get("tokens", ""))),
        )

    def __str__(self) -> str:
        parts = [
            f"{name}:{_ranges(blocks)}" for name, blocks in (("static", self.static), ("skip", self.skip)) if blocks
        ]
        if self.tokens:
            parts.append("tokens:" + ",".join(map(str, self.tokens)))
        return " ".join(parts)

    def kind(self, block: int) -> Kind:
        """What block ``block`` does in place of attention, if anything."""
        return "static" if block in self.static else "skip" if block in self.skip else "dynamic"

    def first(self, blocks: int) -> "Spec":
        """The spec of a model cut off after its first ``blocks`` blocks."""
        return Spec(
            tuple(b for b in self.static if b < blocks),
            tuple(b for b in self.skip if b < blocks),
            tuple(r for r in self.tokens if r.block < blocks),
        )

    def check(self, depth: int, global_pool: str) -> None:
        """Refuses what no model of ``depth`` blocks can do.

        Raises:
            ValueError: a block does not exist, a skipped one has nothing to reuse, or its Φ cannot reach the output.
        """
        for name, blocks in (("static", self.static), ("skip", self.skip), ("tokens", [r.block for r in self.tokens])):
            outside = [index for index in blocks if not 0 <= index < depth]
            if outside:
                raise ValueError(
                    f"{name} names blocks {outside}, but the model has blocks 0 to {depth - 1}; correct the spec"
                )
        if self.skip and self.skip[0] == 0:
            raise ValueError("block 0 cannot skip: no earlier attention is there to reuse; start skip at 1 or later")
        if self.skip and self.skip[-1] == depth - 1 and global_pool == "token":
            raise ValueError(
                f"block {depth - 1} is the last and cannot skip under a class-token head: Φ changes patch tokens only, "
                "and no later block would read them; leave it out of skip, or use global_pool='avg'"
            )

    def grids(self, depth: int, grid: Grid) -> list[Grid]:
        """The patch grid (rows, columns) on which each of ``depth`` blocks works, for a model of grid ``grid``.

        Raises:
            ValueError: a size forms no grid within the one before it.
        """
        sizes, grids, now = {r.block: r for r in self.tokens}, [], grid
        for block in range(depth):
            if block in sizes:
                now = _shrunk(sizes[block], now, grid)
            grids.append(now)
        return grids


def as_spec(spec: "Spec | str") -> Spec:
    """A spec, from itself or its text."""
    return spec if isinstance(spec, Spec) else Spec.parse(spec)


def _once(name: str, blocks: Iterable[int]) -> tuple[int, ...]:
    chosen = tuple(sorted(blocks))
    if twice := sorted({block for block, after in pairwise(chosen) if block == after}):
        more = " ..." if len(twice) > _SHOWN else ""
        raise ValueError(f"{name} names a block twice: {', '.join(map(str, twice[:_SHOWN]))}{more}; name each once")
    return chosen


def _items(text: str) -> list[str]:
    return text.split(",") if text else []


def _indices(items: str, text: str) -> Iterator[int]:
    for item in _items(items):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", item, re.ASCII)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"spec {text!r} cannot be read at {item!r}; {_HINT}")
        yield from range(int(match[1]), int(match[2] or match[1]) + 1)


def _reduction(item: str, text: str) -> Reduction:
    match = re.fullmatch(r"(\d{1,6})(?:([x/])(\d{1,6}))?@(\d{1,4})", item, re.ASCII)
    if match is None:
        raise ValueError(f"spec {text!r} cannot be read at {item!r}; {_HINT}")
    a, sign, b, block = int(match[1]), match[2], int(match[3] or 1), int(match[4])
    if a < 1 or b < 1 or (sign == "/" and a >= b):
        raise ValueError(f"spec {text!r}: {item!r} is neither a number of tokens from 1 up nor a fraction below 1")
    return Reduction(block, (a, b) if sign == "x" else Fraction(a, b) if sign == "/" else a)


def _ranges(blocks: tuple[int, ...]) -> str:
    runs: list[list[int]] = []
    for block in blocks:
        if runs and runs[-1][-1] == block - 1:
            runs[-1][1:] = [block]
        else:
            runs.append([block])
    return ",".join("-".join(map(str, run)) for run in runs)


def _shrunk(reduction: Reduction, now: Grid, initial: Grid) -> Grid:
    """The grid of a size: inside the present one, pooling whole cells where that is possible, and near square cells."""
    size = reduction.size
    if isinstance(size, tuple):
        if size[0] > now[0] or size[1] > now[1]:
            raise ValueError(
                f"tokens:{reduction}: a grid of {size[0]} x {size[1]} does not fit into {now[0]} x {now[1]}; "
                "tokens can only become fewer"
            )
        return size
    count = size if isinstance(size, int) else max(1, round(size * initial[0] * initial[1]))
    if count > now[0] * now[1]:
        raise ValueError(
            f"tokens:{reduction}: {count} is more than the {now[0] * now[1]} patch tokens there; give a smaller size"
        )
    if now[0] * now[1] > _MOST_PATCHES:
        raise ValueError(
            f"tokens:{reduction}: {now[0]} x {now[1]} patches are too many to search for a grid of {count}; "
            "name the grid, as in 14x7"
        )
    grids = [(h, w) for h in range(1, now[0] + 1) for w in range(1, now[1] + 1)]
    fitting = [g for g in grids if g[0] * g[1] == count]
    if not fitting and isinstance(size, Fraction):  # a fraction asks for about so many
        best = min(abs(math.log(g[0] * g[1] / count)) + abs(_skew(g, initial)) for g in grids)
        fitting = [g for g in grids if abs(math.log(g[0] * g[1] / count)) + abs(_skew(g, initial)) == best]
    if not fitting:
        near = sorted({h * w for h, w in grids}, key=lambda n: abs(n - count))[:3]
        raise ValueError(
            f"tokens:{reduction}: {count} tokens form no grid within {now[0]} x {now[1]}, which dense heads, Φ and "
            f"other resolutions need; near counts that do: {', '.join(map(str, sorted(near)))}"
        )
    return min(fitting, key=lambda g: (now[0] % g[0] + now[1] % g[1] > 0, abs(_skew(g, initial)), -g[0]))


def _skew(grid: Grid, initial: Grid) -> float:
    """How far from square the cells become: log of their height over their width, in initial cells."""
    return math.log(initial[0] / grid[0]) - math.log(initial[1] / grid[1])
