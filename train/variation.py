"""Variety for pictures without labels: what a model is asked about need not be of any class for its answer to teach.

Random numbers come from the seed and the step alone, so that a resumed run sees what the other would have seen.
"""

import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from skipvit.checkpoints import DESCRIPTION, read_checkpoint
from train.augment import RANDOM_NUMBERS, GlyphDistortion
from train.batches import glyph_numbers
from train.classification_recipe import Augment
from train.conversion import ConversionError

_VARIATION = 100  # apart from the streams of train/batches.py


class Variation(Protocol):
    """Turns pictures (B, 3, H, W) uint8 of a step into others, in 0..1."""

    def __call__(self, pixels: Tensor, seed: int, step: int) -> Tensor: ...


class AsTheyAre:
    """No variation."""

    def __call__(self, pixels: Tensor, seed: int, step: int) -> Tensor:
        return pixels.float() / 255


@dataclass(frozen=True)
class Glyphs:
    """The distortion that the digits recipes train with.

    A little is needed, and much hurts. A student of plain pictures alone forgets what its teacher knows of others:
    after 400 steps of 64 it reads 53 % of the synthetic drawings, of which its teacher reads 94 %, and 98.1 % of scans.
    At 0.25 it is 91 and 96.9 %. One seed each, and a learning rate of 3e-3.

    Args:
        ramp: how far it is turned up, 0 to 1; see `GlyphDistortion`.
    """

    distortion: GlyphDistortion
    ramp: float = 0.25

    def __call__(self, pixels: Tensor, seed: int, step: int) -> Tensor:
        u = glyph_numbers(seed, step, len(pixels), RANDOM_NUMBERS).to(pixels.device)
        return self.distortion(pixels.float() / 255, u, self.ramp)


@dataclass(frozen=True)
class Photographs:
    """Mild zoom, shift and rotation, then every other picture mixed with one of the batch. Nothing is mirrored.

    Chosen by judgement: no trained model of photographs was at hand to measure it on.

    Args:
        zoom: a picture is enlarged by up to this factor, which crops it.
        rotation: degrees to either side.
        mix: mix at all.
    """

    zoom: float = 1.4
    rotation: float = 5.0
    mix: bool = True

    def __call__(self, pixels: Tensor, seed: int, step: int) -> Tensor:
        drawn = np.random.default_rng([seed, _VARIATION, step]).random((len(pixels), 5), dtype=np.float32)
        u = torch.from_numpy(drawn).to(pixels.device)
        moved = self._move(pixels.float() / 255, u)
        if not self.mix:
            return moved
        share = 0.5 * u[:, 4] * (torch.arange(len(u), device=u.device) % 2)
        return torch.lerp(moved, moved.flip(0), share.view(-1, 1, 1, 1))

    def _move(self, pictures: Tensor, u: Tensor) -> Tensor:
        angle = (2 * u[:, 0] - 1) * math.radians(self.rotation)
        size = 1 - (1 - 1 / self.zoom) * u[:, 1]  # of the window, as a share of the picture's
        room = 1 - size
        x, y = ((2 * u[:, i] - 1) * room for i in (2, 3))
        H, W = pictures.shape[-2:]
        cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
        # affine_grid's coordinates run from -1 to 1 on both sides: a rotation of pixels is one after their ratio
        rows = torch.stack([cos, -sin * H / W, x, sin * W / H, cos, y], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(rows, list(pictures.shape), align_corners=False)
        return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def variation_for(model: str, kind: Literal["auto", "digits", "photographs", "none"]) -> Variation:
    """As asked for, or as the checkpoint's recipe has it for digits; photographs otherwise.

    Raises:
        ConversionError: the recipe's distortion of digits cannot be read.
    """
    strengths = GlyphDistortion()
    folder = Path(model)
    if kind in ("auto", "digits") and os.path.exists(folder / DESCRIPTION):
        written = read_checkpoint(folder).recipe.get("augment")
        if isinstance(written, dict) and written.get("kind") == "digits":
            kind = "digits"
            try:
                augment = Augment.model_validate(written)
            except ValidationError as error:
                where = error.errors()[0]
                raise ConversionError(
                    f"{folder / DESCRIPTION}: recipe.augment.{'.'.join(map(str, where['loc']))}: {where['msg']}; "
                    "restore the file, or give --augment photographs or none"
                ) from None
            strengths = GlyphDistortion(**{f.name: getattr(augment, f.name) for f in fields(GlyphDistortion)})
    if kind == "digits":
        return Glyphs(strengths)
    return AsTheyAre() if kind == "none" else Photographs()
