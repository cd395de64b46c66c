"""What needs no training: total variation and non-local means, each with the best of a few strengths for each picture.

They are told the noise, and their strength is chosen by looking at the clean picture, so that their figures are the
best that they can do. Strengths are in units of the noise's standard deviation.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from skipvit.transforms import Pixels
from train.noise import Picture
from train.picture_quality import psnr, rounded

_WEIGHTS = (0.6, 0.8, 1.0, 1.2, 1.4)
_CUTS = (0.4, 0.6, 0.8)


class Best(NamedTuple):
    """The best of a method's pictures (H, W, 3), and its strength."""

    picture: Picture
    strength: float


def total_variation(noisy: Picture, clean: Pixels, sigma: float) -> Best:
    """Chambolle's algorithm (J. Math. Imaging Vis. 20, 2004) on a picture with noise of ``sigma`` in 0..1."""
    from skimage.restoration import denoise_tv_chambolle

    return _best(lambda weight: denoise_tv_chambolle(noisy, weight=weight * sigma, channel_axis=2), _WEIGHTS, clean)


def non_local_means(noisy: Picture, clean: Pixels, sigma: float) -> Best:
    """Buades et al. (CVPR 2005), patches of 5 x 5 within 6 pixels, on a picture with noise of ``sigma`` in 0..1."""
    from skimage.restoration import denoise_nl_means

    def run(cut: float) -> Picture:
        return denoise_nl_means(
            noisy, patch_size=5, patch_distance=6, h=cut * sigma, sigma=sigma, fast_mode=True, channel_axis=2
        )

    return _best(run, _CUTS, clean)


def _best(run: Callable[[float], Picture], strengths: tuple[float, ...], clean: Pixels) -> Best:
    found = [Best(np.asarray(run(strength), dtype=np.float32), strength) for strength in strengths]
    return max(found, key=lambda best: psnr(rounded(best.picture), clean))
