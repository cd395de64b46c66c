"""Noise: its levels as text, and its moments against the formulas."""

import io

import numpy as np
import pytest
from PIL import Image

from train.noise import (
    Gaussian,
    Jpeg,
    Levels,
    OneOf,
    PoissonGaussian,
    SometimesSaved,
    evaluation_noise,
    read_levels,
    saved,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("25", Levels((25.0,))),
        ("12.5", Levels((12.5,))),
        ("15,25,50", Levels((15.0, 25.0, 50.0))),
        ("5-50", Levels((5.0, 50.0), between=True)),
        ("0", Levels((0.0,))),
    ],
)
def test_levels_are_read(text: str, levels: Levels) -> None:
    assert read_levels(text, 0, 255) == levels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is none of 25"),
        ("loud", "is none of 25"),
        ("-5", "is none of 25"),
        ("5-", "is none of 25"),
        ("1e9", "is none of 25"),
        ("nan", "is none of 25"),
        ("5-50-60", "is none of 25"),
        ("300", "must be from 0 to 255"),
        ("50-5", "first number is not the smaller"),
        ("5-5", "first number is not the smaller"),
    ],
)
def test_other_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_levels(text, 0, 255)


def test_levels_are_drawn_as_they_are_written() -> None:
    some = [read_levels("15,25,50", 0, 255).draw(rng(i)) for i in range(300)]
    assert set(some) == {15.0, 25.0, 50.0}
    between = np.array([read_levels("5-50", 0, 255).draw(rng(i)) for i in range(2000)])
    assert 5 <= between.min() < 7
    assert 48 < between.max() <= 50
    assert between.mean() == pytest.approx(27.5, abs=1)
    photons = np.array([read_levels("30-3000", 1, 1e6).draw_evenly_in_logarithm(rng(i)) for i in range(2000)])
    assert np.median(photons) == pytest.approx(300, rel=0.2), "the middle of the logarithms"


def test_gaussian_noise_has_its_deviation_and_is_not_clipped() -> None:
    noise = Gaussian(Levels((25.0,)))(np.zeros((200, 200, 3), np.float32), rng())
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(25 / 255, rel=0.01)
    assert abs(noise.mean()) < 1e-3
    assert noise.min() < 0


def test_poisson_gaussian_variance_is_the_formula() -> None:
    noise = PoissonGaussian(Levels((100.0,)), Levels((5.0,)))
    for x in (0.1, 0.5, 0.9):
        noisy = noise(np.full((300, 300, 3), x, np.float32), rng())
        assert noisy.dtype == np.float32
        assert noisy.mean() == pytest.approx(x, abs=2e-3)
        assert noisy.var() == pytest.approx(x / 100 + (5 / 255) ** 2, rel=0.02)


def test_jpeg_is_what_pillow_makes_of_it() -> None:
    pixels = rng().integers(0, 256, (24, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=30)
    spoiled = Jpeg(Levels((30.0,)))(pixels.astype(np.float32) / np.float32(255), rng())
    assert (np.rint(spoiled * 255) == np.asarray(Image.open(file))).all()


def test_each_kind_has_its_turn() -> None:
    clean = np.full((8, 8, 3), 0.5, np.float32)
    one = OneOf([Gaussian(Levels((0.0,))), Gaussian(Levels((50.0,)))])
    quiet = sum((one(clean, rng(i)) == clean).all() for i in range(200))
    assert 70 < quiet < 130


def test_some_are_saved_as_files_are() -> None:
    clean = np.linspace(0, 1, 64 * 64 * 3, dtype=np.float32).reshape(64, 64, 3)
    sometimes = SometimesSaved(Gaussian(Levels((25.0,))), 0.25)
    count = 0
    for seed in range(200):
        noisy = sometimes(clean, rng(seed))
        pixels = np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
        if (noisy == pixels.astype(np.float32) / np.float32(255)).all():
            count += 1
        else:
            assert noisy.min() < 0
            assert noisy.max() > 1
    assert 30 < count < 70
    assert saved(np.array([-1, 0.5 / 255, 1.5 / 255, 2], np.float32)) == pytest.approx([0, 0, 2 / 255, 1])


def test_noise_of_an_evaluation_follows_from_the_name() -> None:
    clean = np.full((20, 30, 3), 0.5, np.float32)
    once = evaluation_noise(clean, 25, "cat")
    assert (once == evaluation_noise(clean, 25, "cat")).all()
    assert np.abs(once - evaluation_noise(clean, 25, "dog")).mean() > 0.05
    np.testing.assert_allclose(evaluation_noise(clean, 50, "cat") - clean, 2 * (once - clean), atol=1e-6)
