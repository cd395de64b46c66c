"""A denoiser's work on a picture: noisy, non-local means, the model, clean, where the model errs; below, enlarged."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # not pyplot: no global state, no display wanted
from matplotlib.patches import Rectangle

from skipvit.transforms import Pixels

_INK, _FRAME = "#2d3748", "#ecc94b"
_WINDOW = 96  # pixels of a side of what is enlarged
_TALLEST = 4.0  # of a whole picture's frame, in its width; taller pictures are drawn narrower
_LARGEST_ERROR = 40  # of 255, shown in the darkest shade


def comparison_chart(path: Path, panels: dict[str, Pixels], restored: Pixels, clean: Pixels, title: str) -> None:
    """Writes a PNG.

    Args:
        panels: captions and pictures (H, W, 3), all of one size.
        restored: the one whose difference from ``clean`` is shown.
    """
    error = np.abs(restored.astype(np.int16) - clean).mean(axis=2)
    height, width = clean.shape[:2]
    top, left, side = busiest(clean, _WINDOW)
    columns = len(panels) + 1
    across, upright = 3.2, min(height / width, _TALLEST)
    figure = Figure(figsize=(columns * across, across * (upright + 1) + 0.9), layout="constrained", dpi=110)
    grid = figure.subplots(2, columns, height_ratios=(upright, 1), squeeze=False)
    zoom = np.s_[top : top + side, left : left + side]
    for (whole, part), (caption, picture) in zip(grid.T, panels.items(), strict=False):
        whole.imshow(picture)
        part.imshow(picture[zoom], interpolation="nearest")
        whole.set_title(caption, fontsize=10, color=_INK)
    for axes, shown in zip(grid[:, -1], (error, error[zoom]), strict=True):
        scale = axes.imshow(shown, cmap="magma", vmin=0, vmax=_LARGEST_ERROR, interpolation="nearest")
    grid[0, -1].set_title("difference of the model", fontsize=10, color=_INK)
    figure.colorbar(scale, ax=grid[:, -1], shrink=0.7, label="mean of R, G and B, of 255")
    for whole, part in grid.T:
        whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=_FRAME, linewidth=1.2))
        for axes in (whole, part):
            axes.set(xticks=[], yticks=[])
    figure.suptitle(title, fontsize=11, color=_INK)
    figure.savefig(path)


def busiest(picture: Pixels, side: int) -> tuple[int, int, int]:
    """Top, left and side of the square, on a coarse grid, in which neighbouring pixels differ most."""
    side = min(side, *picture.shape[:2])
    grey = picture.astype(np.float64).mean(axis=2)
    detail = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    sums = np.pad(detail.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    step, reach = max(1, side // 4), side - 1
    corners = [
        (sums[y + reach, x + reach] - sums[y, x + reach] - sums[y + reach, x] + sums[y, x], y, x)
        for y in range(0, picture.shape[0] - side + 1, step)
        for x in range(0, picture.shape[1] - side + 1, step)
    ]
    _, top, left = max(corners)
    return top, left, side
