"""Digits as a mouse draws them: a test set that no scan is part of, and a little more to train on.

Each digit is a few strokes through control points. The points are shaken, slanted and stretched, and drawn with a
round pen. It tells whether a model trained on scans will read what people draw. It is synthetic, and says so.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps

from train.digits import digits
from train.pictures import Dataset, Labels, Pictures

_SIDE = 128
_TESTED, _TRAINED = 60, 30  # drawings of each class
# How the demo's page (serve/page/draw.js) renders strokes: of the height of the square, and with a pen of that width
# which gives the share of ink that scans have.
_PAGE_INK, _PAGE_WIDEST = 0.305, 0.8
Points = npt.NDArray[np.float64]
Stroke = tuple[tuple[float, float], ...]

# fmt: off
# Control points in a box of width and height 1, y downwards; several ways to write a digit where there are.
_WAYS: tuple[tuple[tuple[Stroke, ...], ...], ...] = (
    (
        (((.5, 0), (.15, .2), (.08, .5), (.18, .82), (.5, 1), (.82, .8), (.92, .5), (.84, .18), (.5, 0)),),
    ),
    (
        (((.5, 0), (.5, .5), (.5, 1)),),
        (((.25, .22), (.4, .12), (.52, 0)), ((.52, 0), (.52, 1))),
    ),
    (
        (((.1, .25), (.3, .03), (.7, .03), (.88, .27), (.65, .58), (.1, 1)), ((.1, 1), (.92, 1))),
        (((.12, .22), (.4, 0), (.8, .12), (.8, .4), (.4, .72), (.08, .98)), ((.08, .98), (.95, .95))),
    ),
    (
        (((.12, .14), (.45, 0), (.82, .12), (.8, .36), (.42, .47)),
         ((.42, .47), (.85, .56), (.92, .8), (.55, 1), (.08, .88))),
    ),
    (
        (((.62, 0), (.35, .35), (.05, .65)), ((.05, .65), (.95, .65)), ((.68, .35), (.68, 1))),
        (((.15, 0), (.1, .5)), ((.1, .5), (.85, .5)), ((.8, 0), (.8, 1))),
    ),
    (
        (((.88, 0), (.2, 0)), ((.2, 0), (.15, .42)),
         ((.15, .42), (.5, .35), (.88, .55), (.85, .85), (.5, 1), (.08, .9))),
    ),
    (
        (((.75, 0), (.35, .22), (.12, .6), (.25, .95), (.65, 1), (.9, .76), (.65, .52), (.3, .58), (.14, .7)),),
    ),
    (
        (((.05, 0), (.92, 0)), ((.92, 0), (.6, .45), (.38, 1))),
        (((.05, 0), (.92, 0)), ((.92, 0), (.6, .45), (.38, 1)), ((.35, .5), (.85, .5))),
    ),
    (
        (((.5, 0), (.18, .12), (.22, .36), (.5, .48), (.85, .66), (.82, .92), (.5, 1), (.16, .9)),
         ((.16, .9), (.15, .66), (.5, .48), (.8, .34), (.82, .12), (.5, 0))),
    ),
    (
        (((.85, .28), (.55, .48), (.18, .38), (.2, .1), (.55, 0), (.85, .28)), ((.85, .28), (.8, .65), (.62, 1))),
        (((.85, .25), (.55, .48), (.15, .35), (.25, .05), (.7, .02), (.85, .25)), ((.85, .25), (.85, 1))),
    ),
)
# fmt: on


@dataclass(frozen=True)
class Drawings:
    """Drawings, the same at each call for one seed: picture files, or what the demo's page sends.

    A picture file has a pen of any width and some margin. ``page`` and ``inverted`` say how every other one is made.
    """

    labels: Labels
    seed: int
    page: bool = False
    inverted: bool = False

    def open(self, index: int) -> Image.Image:
        rng = np.random.default_rng([self.seed, index])
        strokes = draw_strokes(int(self.labels[index]), rng)
        pen, margin = rng.uniform(0.06, 0.2), rng.uniform(0.0, 0.15)
        if self.page and index % 2 == 0:
            return as_page(strokes).convert("RGB")
        picture = render(strokes, pen * (1 - 2 * margin), margin)
        return (ImageOps.invert(picture) if self.inverted and index % 2 else picture).convert("RGB")


@dataclass(frozen=True)
class Both:
    """The pictures of one source, then those of another with the same classes."""

    first: Pictures
    second: Pictures

    @property
    def labels(self) -> Labels:
        return np.concatenate([self.first.labels, self.second.labels])

    def open(self, index: int) -> Image.Image:
        n = len(self.first.labels)
        return self.first.open(index) if index < n else self.second.open(index - n)


def drawn_digits() -> Dataset:
    """600 drawings to evaluate on: 300 as the demo's page sends them, 300 as black-on-white picture files."""
    tested, trained = (np.repeat(np.arange(10, dtype=np.int64), n) for n in (_TESTED, _TRAINED))
    held_out = f"synthetic drawn digits, {len(tested)} (seed 1)"
    classes = tuple(str(digit) for digit in range(10))
    # training inverts by itself, see train/augment.py
    train, test = Drawings(trained, 0, page=True), Drawings(tested, 1, page=True, inverted=True)
    return Dataset("builtin:drawn-digits", classes, train, test, held_out)


def digits_and_drawings() -> Dataset:
    """Trains on scans and 300 drawings, white on black; held out are scans alone, the same as in `digits`."""
    scans = digits()
    both = Both(scans.train, drawn_digits().train)
    return replace(scans, uri="builtin:digits-and-drawings", train=both)


def draw_strokes(digit: int, rng: np.random.Generator) -> list[Points]:
    """The paths (k, 2) of a pen that writes a digit about the height of 1, y downwards."""
    ways = _WAYS[digit]
    strokes = ways[rng.integers(len(ways))]
    angle, slant, width = math.radians(rng.uniform(-8, 8)), rng.uniform(-0.1, 0.12), rng.uniform(0.5, 0.85)
    shake = {point: rng.normal(0, 0.025, 2) for stroke in strokes for point in stroke}
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    paths = []
    for stroke in strokes:
        x, y = (np.array([np.add(point, shake[point]) for point in stroke]) - 0.5).T
        paths.append(_smooth(np.stack([x * width - slant * y, y], axis=1) @ turn))
    return paths


def render(strokes: list[Points], pen: float, margin: float = 0.0, widest: float = 1.0) -> Image.Image:
    """Strokes filling a square but for its margin, white on black. All lengths are shares of the square's side."""
    points = np.concatenate(strokes)
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.array([min(widest, 1 - 2 * margin), 1 - 2 * margin]) - pen
    scale = float((room / np.maximum(high - low, 1e-3)).min()) * _SIDE
    image, radius = Image.new("L", (_SIDE, _SIDE)), pen * _SIDE / 2
    canvas = ImageDraw.Draw(image)
    for stroke in strokes:
        path = (stroke - (low + high) / 2) * scale + _SIDE / 2
        canvas.line([(float(x), float(y)) for x, y in path], fill=255, width=max(1, round(2 * radius)))
        for x, y in path.tolist():
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return image


def as_page(strokes: list[Points]) -> Image.Image:
    """Strokes as the demo's page renders them."""
    thin, thick = 3 / 64, 26 / 64
    for _ in range(8):
        pen = (thin + thick) / 2
        ink = np.asarray(render(strokes, pen, widest=_PAGE_WIDEST)).mean() / 255
        thin, thick = (pen, thick) if ink < _PAGE_INK else (thin, pen)
    return render(strokes, pen, widest=_PAGE_WIDEST)


def _smooth(points: Points) -> Points:
    """Catmull-Rom curve through (k, 2) points, ends doubled; two points stay a straight line."""
    if len(points) < 3:
        return points
    padded = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, 6, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*parts, points[-1:]])
