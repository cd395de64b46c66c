"""Distortion of glyphs, so that a model of scanned 8 x 8 digits also reads drawn, inverted and off-centre ones.

A glyph is ink on a ground. It is enlarged by an affine map onto a grid four times finer than the output, cut to a
stroke of random thickness, averaged down again, and coloured. The optdigits were made by the same averaging of 4 x 4
blocks. Everything random comes in as ``u``, uniform numbers of one row per picture, so that a picture's distortion
does not depend on how a batch is shared out over processes.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RANDOM_NUMBERS = 16  # columns of u
_FINER = 4
# logistic slope of a stroke's edge, in units of ink: about one fine pixel from paper to ink
_EDGE = 12.0


@dataclass(frozen=True)
class GlyphDistortion:
    """Strengths; see the recipe's [augment] for their meaning."""

    rotation: float = 12.0
    shear: float = 0.15
    aspect: float = 1.25
    margin: float = 0.1
    thickness: float = 0.5
    contrast: float = 0.3
    plain: float = 0.3

    def __call__(self, pictures: Tensor, u: Tensor, ramp: float = 1.0) -> Tensor:
        """Distorts white-on-black glyphs.

        Args:
            pictures: (B, 3, H, W) in 0..1.
            u: (B, 16) uniform in 0..1.
            ramp: 0 leaves all pictures as they are; 1 distorts all but the share ``plain``, and inverts half of all.

        Returns:
            (B, 3, H, W) in 0..1.
        """
        ink = pictures.mean(dim=1, keepdim=True)  # (B, 3, H, W) -> (B, 1, H, W)
        stroke = self._stroke(self._move(ink, u[:, :6]), u[:, 6])
        inverted = u[:, 14] < 0.5 * ramp
        distorted = self._colour(F.avg_pool2d(stroke, _FINER), u[:, 7:14], inverted)  # (B, 1, 4H, 4W) -> (B, 3, H, W)
        plain = u[:, 15] < 1 - ramp * (1 - self.plain)
        turned = torch.where(_per_picture(inverted), 1 - pictures, pictures)
        return torch.where(_per_picture(plain), turned, distorted)

    def _move(self, ink: Tensor, u: Tensor) -> Tensor:
        """Rotation, shear, aspect, size and place; (B, 1, H, W) -> (B, 1, 4H, 4W)."""
        angle = _spread(u[:, 0]) * math.radians(self.rotation)
        shear = _spread(u[:, 1]) * self.shear
        stretch = torch.exp(_spread(u[:, 2]) * math.log(self.aspect) / 2)
        # A glyph that fills the frame has margin 0; a little beyond that stands for tight crops of the ink.
        size = 1.05 - (2 * self.margin + 0.05) * u[:, 3]
        room = (1 - size).clamp(min=0) + 0.08
        # grid_sample asks where each output pixel comes from, so this is the inverse map: (B, 2, 3)
        cos, sin = torch.cos(angle), torch.sin(angle)
        x, y = 1 / (size * stretch), stretch / size
        linear = torch.stack([x * cos, x * (shear - sin), y * sin, y * cos], dim=1).view(-1, 2, 2)
        centre = torch.stack([_spread(u[:, 4]) * room, _spread(u[:, 5]) * room], dim=1)
        theta = torch.cat([linear, -(linear @ centre[..., None])], dim=2)
        B, _, H, W = ink.shape
        grid = F.affine_grid(theta, [B, 1, _FINER * H, _FINER * W], align_corners=False)
        return F.grid_sample(ink, grid, mode="bicubic", padding_mode="zeros", align_corners=False)

    def _stroke(self, ink: Tensor, u: Tensor) -> Tensor:
        # Enlarging blurs. Where ink passes a level is the stroke's edge, so the level sets its thickness; averaged down
        # again, a stroke cut at one half differs from its scan by 0.03, the blurred enlargement itself by 0.05.
        level = 0.48 - 0.3 * self.thickness * _spread(u)
        return torch.sigmoid(_EDGE * (ink - _per_picture(level)))

    def _colour(self, ink: Tensor, u: Tensor, inverted: Tensor) -> Tensor:
        """Random brightness, contrast and pen in either polarity; (B, 1, H, W) -> (B, 3, H, W)."""
        contrast = self.contrast
        light = 1 - contrast * 0.6 * u[:, 0]
        dark = contrast * 0.5 * u[:, 1] * light
        paper, pen = torch.where(inverted, light, dark), torch.where(inverted, dark, light)
        # half of all have a pen that is not grey
        tint = 0.3 * contrast * (u[:, 6:7] < 0.5) * (u[:, 3:6] - 0.5)
        pen_rgb = (pen[:, None] + tint).clamp(0, 1)[:, :, None, None]
        return _per_picture(paper) * (1 - ink) + pen_rgb * ink


def _spread(u: Tensor) -> Tensor:
    return 2 * u - 1


def _per_picture(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
