"""How close a restored picture comes to the clean one: PSNR and SSIM.

Figures in the literature differ by more than models do, depending on rounding and on SSIM's window: a picture of 40.01
dB in floating point has 39.96 dB when rounded to 8 bits and 39.84 dB when truncated. Here ``psnr`` and ``ssim`` are of
the picture rounded to 8 bits, as it would be saved, and ``psnr_float`` of the one before.
"""

from dataclasses import dataclass

import numpy as np

from skipvit.transforms import Pixels
from train.noise import Picture

SSIM_DEFINITION = (
    "scikit-image structural_similarity: 7 x 7 uniform window, sample covariance, K1 = 0.01, K2 = 0.03, "
    "mean over R, G and B, of 8-bit pictures"
)
# What equal pictures count as; infinity is no number in JSON.
_MOST = 200.0
SMALLEST = 7  # pixels on a side of a picture that can be measured: those of SSIM's window


@dataclass(frozen=True)
class Quality:
    """PSNR in dB of the picture rounded to 8 bits and of the one before, and SSIM of the former."""

    psnr: float
    psnr_float: float
    ssim: float


def rounded(picture: Picture) -> Pixels:
    """(H, W, 3) in 0..1 to uint8: clipped, and rounded half to even."""
    return np.rint(np.clip(picture, 0, 1) * np.float32(255)).astype(np.uint8)


def quality(restored: Picture, clean: Pixels) -> Quality:
    """Compares (H, W, 3) in 0..1, clipped here, with the clean picture; both sides are 7 pixels at least."""
    eight_bits = rounded(restored)
    return Quality(
        psnr=psnr(eight_bits, clean),
        psnr_float=psnr(np.clip(restored.astype(np.float64), 0, 1) * 255, clean),
        ssim=ssim(eight_bits, clean),
    )


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """10 log10(255² / mean squared difference over all pixels and channels), in dB; values in 0..255."""
    difference = float(np.mean(np.square(one.astype(np.float64) - other.astype(np.float64))))
    return min(_MOST, 10 * float(np.log10(255**2 / difference))) if difference > 0 else _MOST


def ssim(one: Pixels, other: Pixels) -> float:
    """See SSIM_DEFINITION.

    Raises:
        ValueError: a side has fewer than 7 pixels.
    """
    from skimage.metrics import structural_similarity  # takes half a second to load

    if min(one.shape[:2]) < SMALLEST:
        raise ValueError(f"SSIM needs {SMALLEST} pixels on each side, got {one.shape[1]} x {one.shape[0]}")
    return float(structural_similarity(one, other, channel_axis=2, data_range=255))
