"""scikit-learn's handwritten digits: 1797 real scans of 8 x 8 pixels, part of its wheel, so nothing is downloaded.

They are the test set of UCI's optdigits: 32 x 32 bitmaps, each 4 x 4 block counted, so a value is ink from 0 to 16.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from skipvit.transforms import Pixels
from train.pictures import Dataset, Labels

HELD_OUT = 0.2
SPLIT_SEED = 0


@dataclass(frozen=True)
class Glyphs:
    """Digits in memory: pixels (n, 8, 8, 3) uint8, white ink on black."""

    pixels: Pixels
    labels: Labels

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])


def digits() -> Dataset:
    """The digits, a fifth held out, split by class and always in the same way."""
    # Imported here: scikit-learn takes a second to load, and photographs do not need it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    ink, labels = load_digits(return_X_y=True)
    # value * 255 / 16, rounded; (n, 64) -> (n, 8, 8) -> (n, 8, 8, 3)
    grey = np.rint(ink.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, random_state=SPLIT_SEED, stratify=labels
    )
    return Dataset(
        uri="builtin:digits",
        classes=tuple(str(digit) for digit in range(10)),
        train=Glyphs(pixels[train], labels[train].astype(np.int64)),
        held_out=Glyphs(pixels[held_out], labels[held_out].astype(np.int64)),
        held_out_name=f"scikit-learn digits, {len(held_out)} held out (stratified, seed {SPLIT_SEED})",
    )
