"""The figures of an analysis as SVG text: no script, no outside font, colours from the page's variables.

Every figure is 360 units wide, so that its letters are as large as the page's on a phone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH = 360
_NUMBERED = 12  # up to so many layers, a heat map's cells carry their numbers


@dataclass(frozen=True)
class Point:
    """A point of a curve; ``note`` is what the pointer shows over it."""

    x: float
    y: float
    note: str
    marked: bool = False


def heat_map(title: str, values: Sequence[Sequence[float]], low: float) -> str:
    """A layers x layers matrix; shade goes from ``low`` (none) to 1 (full), neighbouring layers are framed."""
    n = len(values)
    left, top = 34, 8
    side = (_WIDTH - left - 6) / n
    height = top + n * side + 34
    parts = []
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            x, y = left + j * side, top + i * side
            shade = min(1.0, max(0.0, (value - low) / (1 - low)))
            frame = ' class="next"' if abs(i - j) == 1 else ""
            parts.append(
                f"<g{frame}><title>blocks {i} and {j}: {value:.3f}</title>"
                f'<rect x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{side - 1:.1f}" height="{side - 1:.1f}" '
                f'fill="var(--accent)" fill-opacity="{shade:.3f}"/>'
            )
            if n <= _NUMBERED:
                ink, centre = "on" if shade > 0.55 else "off", f'x="{x + side / 2:.1f}" y="{y + side / 2 + 3.2:.1f}"'
                parts.append(f'<text class="cell {ink}" {centre}>{_short(value)}</text>')
            parts.append("</g>")
    every = math.ceil(n / 12)
    for i in range(0, n, every):
        middle = (i + 0.5) * side
        parts.append(f'<text class="tick end" x="{left - 5}" y="{top + middle + 4:.1f}">{i}</text>')
        parts.append(f'<text class="tick mid" x="{left + middle:.1f}" y="{top + n * side + 14:.1f}">{i}</text>')
    parts.append(f'<text class="axis" x="{left + n * side / 2:.1f}" y="{height - 5:.1f}">block</text>')
    parts.append(f'<text class="axis" transform="translate(10 {top + n * side / 2:.1f}) rotate(-90)">block</text>')
    return _svg(height, title, parts)


def curve(title: str, points: Sequence[Point], x_name: str, y_name: str, *, line_at: float, top: float | None) -> str:
    """Points joined by a line, x from 1 up, y from 0; a dashed upright marks ``line_at``.

    Args:
        top: end of the y axis; the largest value where None.
    """
    left, right, upper, lower, height = 60, 14, 12, 44, 250
    x_ticks = _ticks(1.0, max([line_at, *(p.x for p in points)]) * 1.02)
    y_ticks = _ticks(0.0, top if top is not None else max([1e-6, *(p.y for p in points)]))
    last_x, last_y = max(x_ticks[-1], line_at), y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - 1) / (last_x - 1)
        return left + across * (_WIDTH - left - right), height - lower - y / last_y * (height - upper - lower)

    parts = []
    for y in y_ticks:
        _, at = place(1, y)
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick end" x="{left - 6}" y="{at + 4:.1f}">{y:g}</text>')
    for x in x_ticks:
        at, _ = place(x, 0)
        parts.append(f'<text class="tick mid" x="{at:.1f}" y="{height - lower + 16}">{x:g}x</text>')
    at, _ = place(line_at, 0)
    parts.append(f'<line class="target" x1="{at:.1f}" x2="{at:.1f}" y1="{upper}" y2="{height - lower}"/>')
    places = [place(p.x, p.y) for p in points]
    parts.append(f'<polyline class="curve" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
    for point, (x, y) in sorted(zip(points, places, strict=True), key=lambda pair: pair[0].marked):
        look = 'class="mark" r="6"' if point.marked else 'class="dot" r="4"'
        parts.append(f'<circle {look} cx="{x:.1f}" cy="{y:.1f}"><title>{escape(point.note)}</title></circle>')
    parts.append(f'<text class="axis" x="{(left + _WIDTH - right) / 2}" y="{height - 8}">{escape(x_name)}</text>')
    middle = (height - lower + upper) / 2
    parts.append(f'<text class="axis" transform="translate(11 {middle}) rotate(-90)">{escape(y_name)}</text>')
    return _svg(height, title, parts)


def bar_table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[str, float, str] | None]]]) -> str:
    """A table whose cells are numbers with a bar below: (text, length from 0 to 1, what the pointer shows)."""
    parts = ['<div class="wide"><table class="bars"><thead><tr>']
    parts += [f'<th scope="col">{escape(name)}</th>' for name in head]
    parts.append("</tr></thead><tbody>")
    for name, cells in rows:
        parts.append(f'<tr><th scope="row">{escape(name)}</th>')
        for cell in cells:
            if cell is None:
                parts.append("<td>-</td>")
                continue
            text, length, note = cell
            width = 100 * min(1.0, max(0.0, length))
            parts.append(f'<td title="{escape(note)}">{escape(text)}<i style="width:{width:.1f}%"></i></td>')
        parts.append("</tr>")
    return "".join([*parts, "</tbody></table></div>"])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table; the first column heads its row."""
    parts = ['<div class="wide"><table><thead><tr>', *(f'<th scope="col">{escape(name)}</th>' for name in head)]
    parts.append("</tr></thead><tbody>")
    for first, *others in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        parts.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return "".join([*parts, "</tbody></table></div>"])


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">' + "".join(parts) + "</svg>"
    )


def _short(value: float) -> str:
    """Two digits in little room: .87, 1, -.04."""
    text = f"{round(value, 2) + 0.0:.2f}"  # adding zero makes -0.0 a plain one
    return "1" if text == "1.00" else text.replace("0.", ".", 1)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to just past ``high``, at most seven."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if span / (power * m) <= 5)
    count = math.ceil(span / step - 1e-9)
    return [round(low + i * step, 10) for i in range(count + 1)]
