"""The picture of the ladder benchmark: latency over time, and which variant answered."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure  # not pyplot: no global state, no display wanted

from benchmarks.figures import write_figure

_INK, _PALE, _RED = "#2d3748", "#e2e8f0", "#c53030"
_COLOURS = ("#2b6cb0", "#4299e1", "#ed8936", "#c05621", "#7b341e")
_NO_VARIANT = ("second", "phase", "requests", "p50_ms", "p99_ms")


def draw(rows: Sequence[Mapping[str, object]], path: Path) -> list[Path]:
    """Writes ``path`` as .png and .svg, the same bytes for the same rows."""
    return write_figure(figure, rows, path)


def figure(rows: Sequence[Mapping[str, object]]) -> Figure:
    """Two axes over the same time, the load step shaded in both."""
    picture = Figure(figsize=(8.4, 5.4), layout="constrained", dpi=160)
    FigureCanvasAgg(picture)
    above, below = picture.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    seconds = [_number(row, "second") for row in rows]
    width = seconds[1] - seconds[0] if len(seconds) > 1 else 1.0
    step = [second for second, row in zip(seconds, rows, strict=True) if row["phase"] == "step"]
    for axes in (above, below):
        if step:
            axes.axvspan(step[0], step[-1] + width, color=_PALE, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    _latency(above, rows, [second + width / 2 for second in seconds])
    _shares(below, rows, seconds, width)
    factor = "3 x the exact variant's capacity" if step else ""
    title = f"A load of {factor} ({rows[0]['exact_per_s']} requests/s) comes and goes"
    above.set_title(title, loc="left", color=_INK, fontsize=11)
    return picture


def _latency(axes: Any, rows: Sequence[Mapping[str, object]], seconds: Sequence[float]) -> None:
    axes.plot(seconds, [_number(row, "p99_ms") for row in rows], color=_INK, label="p99")
    axes.plot(seconds, [_number(row, "p50_ms") for row in rows], color=_INK, linewidth=0.8, linestyle=":", label="p50")
    axes.axhline(_number(rows[0], "objective_ms"), color=_RED, linewidth=1, linestyle="--", label="objective")
    axes.set_ylabel("latency, ms")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right", frameon=False, fontsize=9, ncols=3)


def _shares(axes: Any, rows: Sequence[Mapping[str, object]], seconds: Sequence[float], width: float) -> None:
    names = list(rows[0])
    variants = names[len(_NO_VARIANT) : names.index("exact_per_s")]
    bottom = [0.0] * len(rows)
    for variant, colour in zip(variants, _COLOURS, strict=False):
        shares = [100 * _number(row, variant) / max(1.0, _number(row, "requests")) for row in rows]
        axes.bar(seconds, shares, width, bottom, align="edge", color=colour, label=variant)
        bottom = [low + share for low, share in zip(bottom, shares, strict=True)]
    axes.set_ylabel("answered by, %")
    axes.set_xlabel("seconds")
    axes.set_ylim(0, 100)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), frameon=False, fontsize=9, ncols=len(variants))


def _number(row: Mapping[str, object], column: str) -> float:
    return float(str(row[column]))
