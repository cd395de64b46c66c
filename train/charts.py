"""Two pictures of a classifier's errors: which classes it confuses, and whether its confidence can be believed."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # not pyplot: no global state, no display wanted

from skipvit.metrics import Counts, Reliability

_BLUE, _RED, _INK = "#2b6cb0", "#c53030", "#2d3748"
_FEW = 10
_NAMED, _COUNTED = 40, 20  # up to so many classes are named on the axes, and counted in the cells


def confusion_chart(path: Path, confusion: Counts, labels: tuple[str, ...], title: str) -> None:
    """Rows are true classes, columns predictions; shade is the share of the row, numbers are counts."""
    n = len(labels)
    side = float(np.clip(0.42 * n + 2.2, 5.0, 14.0))
    figure = Figure(figsize=(side + 0.7, side + 0.1), layout="constrained", dpi=150)
    axes = figure.subplots()
    support = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, support, out=np.zeros(confusion.shape), where=support > 0)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    _title(axes, title, f"accuracy {np.trace(confusion) / max(1, confusion.sum()):.2%}", side)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if n <= _NAMED:
        short = [textwrap.shorten(label, 18, placeholder="…") for label in labels]
        upright = max(map(len, short)) > 3
        axes.set_xticks(range(n), short, rotation=90 if upright else 0, fontsize=9)
        axes.set_yticks(range(n), short, fontsize=9)
        axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#e2e8f0", linewidth=0.6)
        axes.tick_params(which="both", length=0)
    if n <= _COUNTED:
        for i, j in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if shares[i, j] > 0.5 else _INK if i == j else _RED
            axes.text(j, i, str(confusion[i, j]), ha="center", va="center", fontsize=9, color=colour)
    figure.colorbar(picture, ax=axes, shrink=0.9, label="share of the true class")
    figure.savefig(path)


def reliability_chart(path: Path, reliability: Reliability, title: str) -> None:
    """Accuracy against confidence, bin by bin, with the gap to the diagonal; below, how many pictures are in a bin.

    Bins of few pictures are pale: their accuracy is mostly chance.
    """
    figure = Figure(figsize=(5.6, 6.8), layout="constrained", dpi=150)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = 1 / len(reliability.counts)
    for left, n, confidence, accuracy in zip(
        reliability.edges, reliability.counts, reliability.confidence, reliability.accuracy, strict=False
    ):
        if n:
            strong = 1.0 if n >= _FEW else 0.35
            upper.bar(
                left, accuracy, width, align="edge", color=_BLUE, alpha=strong, edgecolor="white", label="accuracy"
            )
            low, high = sorted((confidence, accuracy))
            upper.bar(left, high - low, width, low, align="edge", fill=False, hatch="////", edgecolor=_RED,
                      alpha=strong, linewidth=0.8, label="gap to confidence")  # fmt: skip
            lower.annotate(str(n), (left + width / 2, n), ha="center", va="bottom", fontsize=7, color=_INK)
    upper.plot([0, 1], [0, 1], "--", color=_INK, linewidth=1, label="perfectly calibrated")
    upper.set(ylim=(0, 1), xlim=(0, 1), ylabel="accuracy")
    _title(upper, title, f"ECE {reliability.ece:.3f} in {len(reliability.counts)} bins", 5.6)
    lower.bar(reliability.edges[:-1], reliability.counts, width, align="edge", color="#a0aec0", edgecolor="white")
    lower.set_yscale("log")
    lower.set(ylim=(0.7, 4 * reliability.counts.max()), xlabel="confidence in the predicted class", ylabel="pictures")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    # one entry of each kind, the strongest, which comes with the highest confidence
    handles = dict(zip(*reversed(upper.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path)


def _title(axes: Any, title: str, figure_of_merit: str, inches: float) -> None:
    wrapped = "\n".join(textwrap.wrap(title, int(inches * 13)))
    axes.set_title(f"{wrapped}\n{figure_of_merit}", fontsize=10, color=_INK, loc="left")
