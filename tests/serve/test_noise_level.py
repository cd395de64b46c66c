"""The estimate of noise against noise that was put there."""

import numpy as np
import pytest
from skimage import data
from sklearn.datasets import load_sample_image

from serve.video.noise_level import noise_sigma

PHOTOGRAPHS = {
    "astronaut": data.astronaut,
    "chelsea": data.chelsea,
    "coffee": data.coffee,
    "rocket": data.rocket,
    "china": lambda: load_sample_image("china.jpg"),
    "flower": lambda: load_sample_image("flower.jpg"),
}


def noisy(picture: np.ndarray, sigma: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(np.rint(picture + rng.normal(0, sigma, picture.shape)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("sigma", [15, 25, 50])
def test_within_a_tenth_on_photographs(name: str, sigma: float) -> None:
    assert noise_sigma(noisy(PHOTOGRAPHS[name](), sigma)) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("sigma", [1, 3, 10, 40])
def test_exact_on_a_flat_grey(sigma: float) -> None:
    assert noise_sigma(noisy(np.full((400, 400, 3), 128), sigma)) == pytest.approx(sigma, rel=0.12, abs=0.3)


def test_none_where_there_is_none() -> None:
    y, x = np.mgrid[0:200, 0:300]
    edges = np.where((x // 20 + y // 30) % 2, 40, 200)[..., np.newaxis].repeat(3, axis=2).astype(np.uint8)
    assert noise_sigma(edges) == 0
    assert noise_sigma(np.full((64, 64, 3), 255, np.uint8)) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 2), (3, 5), (33, 31), (40, 7)])
def test_any_size_has_an_answer(size: tuple[int, int]) -> None:
    assert 0 <= noise_sigma(noisy(np.full((*size, 3), 128), 20)) < 60
