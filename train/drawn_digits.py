"""Digits as a mouse draws them: a test set that no scan is part of.

Each digit is a few strokes through control points. The points are shaken, slanted and stretched, drawn with a round
pen on a canvas, cropped to the ink and padded to a square, as the demo page does. It tells whether a model trained on
scans will read what people draw. It is synthetic, and says so in its name.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from train.digits import digits
from train.pictures import Dataset, Labels, Pictures

_CANVAS = 280
_PER_CLASS = 60
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
    """Drawings made anew at each call, always the same for one seed; white on black, or every other one inverted."""

    labels: Labels
    seed: int
    invert_every_other: bool = True

    def open(self, index: int) -> Image.Image:
        rng = np.random.default_rng([self.seed, index])
        drawn, margin = draw_digit(int(self.labels[index]), rng), rng.uniform(0.0, 0.15)
        return crop_to_ink(drawn, margin, inverted=self.invert_every_other and index % 2 == 1)


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
    """600 drawings to evaluate on, and as many others that may be trained on."""
    labels = np.repeat(np.arange(10, dtype=np.int64), _PER_CLASS)
    held_out = f"synthetic mouse-drawn digits, {len(labels)} (seed 1)"
    classes = tuple(str(digit) for digit in range(10))
    return Dataset("builtin:drawn-digits", classes, Drawings(labels, 0), Drawings(labels, 1), held_out)


def digits_and_drawings() -> Dataset:
    """Trains on scans and 300 drawings, white on black; held out are scans alone, the same as in `digits`."""
    scans, labels = digits(), np.repeat(np.arange(10, dtype=np.int64), _PER_CLASS // 2)
    both = Both(scans.train, Drawings(labels, 0, invert_every_other=False))
    return replace(scans, uri="builtin:digits-and-drawings", train=both)


def draw_digit(digit: int, rng: np.random.Generator) -> Image.Image:
    """A digit on a canvas, ink 255 on 0, with a pen of random width."""
    ways = _WAYS[digit]
    strokes = ways[rng.integers(len(ways))]
    angle, slant = math.radians(rng.uniform(-8, 8)), rng.uniform(-0.2, 0.25)
    height = rng.uniform(0.45, 0.8) * _CANVAS
    width = height * rng.uniform(0.5, 0.85)
    shake = {point: rng.normal(0, 0.025, 2) for stroke in strokes for point in stroke}
    pen = max(3, round(height * rng.uniform(0.06, 0.15)))
    image = Image.new("L", (_CANVAS, _CANVAS))
    canvas = ImageDraw.Draw(image)
    for stroke in strokes:
        points = np.array([np.add(point, shake[point]) for point in stroke]) - 0.5
        x = points[:, 0] * width - slant * points[:, 1] * height * 0.5
        y = points[:, 1] * height
        turned = np.stack(
            [x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)], axis=1
        )
        path = _smooth(turned + _CANVAS / 2)
        canvas.line([(float(px), float(py)) for px, py in path], fill=255, width=pen, joint="curve")
        for px, py in [*path[:: max(1, len(path) // 24)].tolist(), path[-1].tolist()]:
            canvas.ellipse((px - pen / 2, py - pen / 2, px + pen / 2, py + pen / 2), fill=255)
    return image


def crop_to_ink(image: Image.Image, margin: float, inverted: bool) -> Image.Image:
    """The square around the ink with ``margin`` of its side left free all around, in RGB."""
    box = image.getbbox() or (0, 0, image.width, image.height)
    side = max(box[2] - box[0], box[3] - box[1]) / (1 - 2 * margin)
    square = Image.new("L", (max(1, round(side)),) * 2)
    glyph = image.crop(box)
    square.paste(glyph, ((square.width - glyph.width) // 2, (square.height - glyph.height) // 2))
    return (square.point([255 - level for level in range(256)]) if inverted else square).convert("RGB")


def _smooth(points: Points) -> Points:
    """Catmull-Rom curve through (k, 2) points, ends doubled; two points stay a straight line."""
    if len(points) < 3:
        return points
    padded = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, 12, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*parts, points[-1:]])
