"""PSNR and SSIM against scikit-image and against the formula."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from train.picture_quality import psnr, quality, rounded, ssim


def pictures(seed: int = 0, size: tuple[int, int] = (40, 56)) -> tuple[np.ndarray, np.ndarray]:
    """Something smooth with noise, float 0..1, and the clean uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    clean = np.stack([np.sin(x / 7) + np.cos(y / 5 + c) for c in range(3)], axis=2)
    clean = np.rint((clean + 2) / 4 * 255).astype(np.uint8)
    return (clean / 255 + rng.normal(0, 0.1, clean.shape)).astype(np.float32), clean


def test_psnr_is_scikit_images() -> None:
    noisy, clean = pictures()
    found = quality(noisy, clean)
    eight_bits = np.rint(np.clip(noisy, 0, 1) * np.float32(255)).astype(np.uint8)
    assert found.psnr == pytest.approx(peak_signal_noise_ratio(clean, eight_bits), abs=1e-9)
    wide = np.clip(noisy.astype(np.float64), 0, 1) * 255
    assert found.psnr_float == pytest.approx(peak_signal_noise_ratio(clean.astype(float), wide, data_range=255))
    assert found.ssim == structural_similarity(eight_bits, clean, channel_axis=2, data_range=255)


def test_ssim_is_the_formula_with_a_uniform_window() -> None:
    noisy, clean = pictures()
    one, other = rounded(noisy).astype(float), clean.astype(float)
    c1, c2, n = (0.01 * 255) ** 2, (0.03 * 255) ** 2, 49
    channels = []
    for a, b in zip(np.moveaxis(one, 2, 0), np.moveaxis(other, 2, 0), strict=True):
        ma, mb = uniform_filter(a, 7), uniform_filter(b, 7)
        va, vb, cov = (
            (uniform_filter(p * q, 7) - mp * mq) * n / (n - 1)
            for p, q, mp, mq in ((a, a, ma, ma), (b, b, mb, mb), (a, b, ma, mb))
        )
        every = ((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
        channels.append(every[3:-3, 3:-3].mean())
    assert ssim(rounded(noisy), clean) == pytest.approx(np.mean(channels), abs=1e-9)


def test_rounding_is_half_to_even_and_clips() -> None:
    values = np.array([[[-1.0, 0.5 / 255, 1.5 / 255], [2.5 / 255, 1.0, 7.0]]])
    assert rounded(values.astype(np.float64)).tolist() == [[[0, 0, 2], [2, 255, 255]]]


def test_rounding_costs_a_little_where_a_picture_is_nearly_perfect() -> None:
    _, clean = pictures()
    near = (clean / 255 + np.random.default_rng(0).normal(0, 2.5 / 255, clean.shape)).astype(np.float32)
    found = quality(near, clean)
    assert 0.02 < found.psnr_float - found.psnr < 0.12, "the rounding's variance of 1/12 beside one of 6.25"


def test_equal_pictures_have_a_finite_figure() -> None:
    _, clean = pictures()
    assert psnr(clean, clean) == 200
    assert ssim(clean, clean) == pytest.approx(1)


def test_pictures_too_small_for_ssim_are_refused() -> None:
    with pytest.raises(ValueError, match="SSIM needs 7 pixels on each side, got 9 x 6"):
        ssim(np.zeros((6, 9, 3), np.uint8), np.zeros((6, 9, 3), np.uint8))
