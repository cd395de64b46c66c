"""The picture of the pareto benchmark: accuracy against speed, who is on the frontier, and how far seeds differ."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure  # not pyplot: no global state, no display wanted
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from benchmarks.figures import write_figure

_BLUE, _ORANGE, _INK, _PALE = "#2b6cb0", "#c05621", "#2d3748", "#718096"
# Where a label may go, in points from its point: near ones first, beside it before above and below.
_PLACES = [
    (x * distance, y * distance)
    for distance in (8, 14, 22, 32, 44, 58, 74, 92)
    for x, y in ((1, 0), (-1, 0), (0.7, 0.8), (-0.7, 0.8), (0.7, -0.8), (-0.7, -0.8), (0, 1), (0, -1))
]
_HALO = withStroke(linewidth=2.5, foreground="white")
_LINE_FROM = 20  # a label further than this gets a line to its point


@dataclass(frozen=True)
class Point:
    """A candidate: images/s a core, and top-1 in percent over seeds."""

    name: str
    converted: bool
    speed: float
    top1: float
    lowest: float
    highest: float


def points(rows: Sequence[Mapping[str, object]]) -> list[Point]:
    """Rows of the benchmark, one a candidate and seed, brought together by candidate."""
    found = []
    for name in dict.fromkeys(str(row["candidate"]) for row in rows):
        own = [row for row in rows if row["candidate"] == name]
        top1 = [float(str(row["top1_percent"])) for row in own]
        speed = float(str(own[0]["images_per_s_per_core"]))
        found.append(Point(name, own[0]["start"] != "random", speed, statistics.mean(top1), min(top1), max(top1)))
    return found


def frontier(candidates: Sequence[Point]) -> list[Point]:
    """Those that no other beats in speed without being less accurate, or in accuracy without being slower."""
    kept: list[Point] = []
    for point in sorted(candidates, key=lambda p: (-p.speed, -p.top1)):
        if not kept or point.top1 > kept[-1].top1:
            kept.append(point)
    return kept[::-1]


def draw(rows: Sequence[Mapping[str, object]], path: Path) -> list[Path]:
    """Writes ``path`` as .png and .svg, the same bytes for the same rows."""
    return write_figure(figure, rows, path)


def figure(rows: Sequence[Mapping[str, object]]) -> Figure:
    """The picture; labels overlap neither each other nor points."""
    shown = points(rows)
    picture = Figure(figsize=(8.4, 5.4), layout="constrained", dpi=160)
    FigureCanvasAgg(picture)
    axes: Any = picture.subplots()
    best = frontier(shown)
    axes.plot([p.speed for p in best], [p.top1 for p in best], "--", color=_PALE, linewidth=1.2, zorder=1,
              label="Pareto frontier")  # fmt: skip
    for converted, colour, marker, label in (
        (False, _BLUE, "o", "trained"),
        (True, _ORANGE, "D", "converted from the ViT"),
    ):
        own = [p for p in shown if p.converted is converted]
        if own:
            bars = [[p.top1 - p.lowest for p in own], [p.highest - p.top1 for p in own]]
            axes.errorbar([p.speed for p in own], [p.top1 for p in own], yerr=bars, fmt=marker, color=colour,
                          ecolor=colour, elinewidth=1, capsize=3, markersize=6.5, label=label, zorder=2)  # fmt: skip
    seeds = len({str(row["seed"]) for row in rows})
    axes.set_xlabel("images/s on one core, ONNX Runtime, our export")
    axes.set_ylabel(f"top-1 % on {rows[0]['held_out_images']} held-out digits")
    axes.set_title(f"Accuracy against speed, mean and range of {seeds} seed{'s' * (seeds > 1)}", loc="left", color=_INK,
                   fontsize=11)  # fmt: skip
    axes.margins(x=0.16, y=0.12)
    axes.grid(color="#e2e8f0", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="best", frameon=False, fontsize=9)
    _label(picture, axes, shown)
    return picture


def _label(picture: Figure, axes: Any, shown: Sequence[Point]) -> None:
    """Puts each name at the nearest place that is free; crowded points choose first."""
    picture.draw_without_rendering()  # the layout must be final before anything is measured
    picture.set_layout_engine("none")
    scale = picture.dpi / 72
    taken = [_around(axes, p, 4.5 * scale) for p in shown] + [axes.get_legend().get_window_extent()]
    taken += _along(axes, frontier(shown))
    for point in sorted(shown, key=lambda p: _room(axes, p, shown)):
        text = axes.annotate(point.name, (point.speed, point.top1), (0, 0), textcoords="offset points", fontsize=9,
                             color=_ORANGE if point.converted else _BLUE, va="center", zorder=3,
                             path_effects=[_HALO])  # fmt: skip
        for x, y in _PLACES:
            text.set_position((x, y))
            text.set_horizontalalignment("left" if x > 0 else "right" if x < 0 else "center")
            box = text.get_window_extent()
            if _inside(box, axes.get_window_extent()) and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
        if abs(x) + abs(y) > _LINE_FROM:
            axes.annotate("", (point.speed, point.top1), (x, y), textcoords="offset points",
                          arrowprops={"arrowstyle": "-", "color": _PALE, "linewidth": 0.6}, zorder=1)  # fmt: skip


def _around(axes: Any, point: Point, radius: float) -> Bbox:
    """The pixels of a point and its range over seeds."""
    x, low = axes.transData.transform((point.speed, point.lowest))
    _, high = axes.transData.transform((point.speed, point.highest))
    _, middle = axes.transData.transform((point.speed, point.top1))
    return Bbox.from_extents(x - radius, min(low, middle - radius), x + radius, max(high, middle + radius))


def _along(axes: Any, best: Sequence[Point], step: float = 6.0) -> list[Bbox]:
    """The pixels of the frontier's line, as a chain of small boxes."""
    corners = [axes.transData.transform((p.speed, p.top1)) for p in best]
    chain = []
    for start, end in pairwise(corners):
        count = max(2, round(float(np.hypot(*(end - start))) / step))
        chain += [Bbox.from_extents(x - 1, y - 1, x + 1, y + 1) for x, y in np.linspace(start, end, count)]
    return chain


def _room(axes: Any, point: Point, shown: Sequence[Point]) -> float:
    """Pixels from a point to the nearest other one."""
    x, y = axes.transData.transform((point.speed, point.top1))
    others = [axes.transData.transform((p.speed, p.top1)) for p in shown if p is not point]
    return min((float((x - a) ** 2 + (y - b) ** 2) for a, b in others), default=0.0)


def _inside(box: Bbox, frame: Bbox) -> bool:
    return bool(box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1)
