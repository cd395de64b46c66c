"""Writing a chart as files that are the same bytes for the same rows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, object]]


def write_figure(figure: Callable[[Rows], Figure], rows: Rows, path: Path) -> list[Path]:
    """Writes what ``figure`` makes of ``rows`` as ``path`` with the suffixes .png and .svg."""
    written = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "skipvit"}):  # else every run names its parts anew
        picture = figure(rows)
        for file in written:
            picture.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    return written
