"""Glyph distortion: what it may do to a digit, and what not."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from skipvit.transforms import Preprocessing
from train.augment import RANDOM_NUMBERS, GlyphDistortion
from train.digits import digits
from train.prepare import BatchTransform, as_evaluated, imagenet_transform, normalise

STILL = {"rotation": 0.0, "shear": 0.0, "aspect": 1.0, "margin": 0.0, "thickness": 0.0, "contrast": 0.0, "plain": 0.0}


@pytest.fixture(scope="module")
def scans() -> Tensor:
    held_out = digits().held_out
    transform = as_evaluated(Preprocessing(height=8, width=8, resize="squash", interpolation="box"))
    return torch.stack([transform(held_out.open(i)) for i in range(64)]).float() / 255


def numbers(seed: int = 0) -> Tensor:
    return torch.rand(64, RANDOM_NUMBERS, generator=torch.Generator().manual_seed(seed))


def test_result_is_a_picture(scans: Tensor) -> None:
    found = GlyphDistortion()(scans, numbers())
    assert found.shape == scans.shape
    assert found.min() >= 0
    assert found.max() <= 1


def test_a_picture_does_not_depend_on_its_batch(scans: Tensor) -> None:
    distort, u = GlyphDistortion(), numbers()
    torch.testing.assert_close(distort(scans, u)[10:20], distort(scans[10:20], u[10:20]))


def still() -> Tensor:
    """Numbers that leave the geometry alone, and the polarity as it is."""
    u = torch.full((64, RANDOM_NUMBERS), 0.5)
    u[:, 3] = 1.0  # the smallest size, which without a margin is the whole frame
    return u


def test_without_strength_a_scan_stays_what_it_is(scans: Tensor) -> None:
    found = GlyphDistortion(**STILL)(scans, still())
    assert (found - scans).abs().mean() < 0.04
    assert torch.corrcoef(torch.stack([found.flatten(), scans.flatten()]))[0, 1] > 0.98


def test_ramp_starts_with_the_scans_themselves(scans: Tensor) -> None:
    assert torch.equal(GlyphDistortion(plain=0.0)(scans, numbers(), ramp=0.0), scans)


@pytest.mark.parametrize(("ramp", "share"), [(0.5, 0.625), (1.0, 0.25)])
def test_ramp_leaves_ever_fewer_pictures_plain(scans: Tensor, ramp: float, share: float) -> None:
    u = numbers()
    found = GlyphDistortion(plain=0.25)(scans, u, ramp)
    same, inverted = ((found == wanted).flatten(1).all(dim=1) for wanted in (scans, 1 - scans))
    assert torch.equal(same | inverted, u[:, 15] < share)
    assert torch.equal(inverted, (u[:, 15] < share) & (u[:, 14] < ramp / 2))


def test_half_are_inverted_in_the_end_and_are_mirror_images(scans: Tensor) -> None:
    distort, upright, inverted = GlyphDistortion(**STILL), still(), still()
    inverted[:, 14] = 0.4
    white, black = distort(scans, upright), distort(scans, inverted)
    torch.testing.assert_close(white, 1 - black)
    torch.testing.assert_close(distort(scans, inverted, ramp=0.7), white)  # 0.4 is inverted from a ramp of 0.8 on


def test_thickness_adds_and_takes_ink(scans: Tensor) -> None:
    distort, thin, thick = GlyphDistortion(**{**STILL, "thickness": 1.0}), still(), still()
    thin[:, 6], thick[:, 6] = 0.0, 1.0
    ink_thin, ink_thick = (distort(scans, u).mean(dim=(1, 2, 3)) for u in (thin, thick))
    assert (ink_thick > 1.3 * ink_thin).all()
    assert (ink_thin > 0.01).all(), "a stroke must not vanish"


@pytest.mark.parametrize(("column", "value", "axis", "sign"), [(4, 1.0, 3, 1), (4, 0.0, 3, -1), (5, 1.0, 2, 1)])
def test_place_moves_the_ink_where_it_says(scans: Tensor, column: int, value: float, axis: int, sign: int) -> None:
    distort, middle, moved = GlyphDistortion(**{**STILL, "margin": 0.25}), still(), still()
    moved[:, column] = value

    def centre(pictures: Tensor) -> Tensor:
        ink = pictures.mean(dim=(1, 5 - axis))  # (B, 3, H, W) -> (B, 8)
        return (ink * torch.arange(8.0)).sum(dim=1) / ink.sum(dim=1)

    assert (sign * (centre(distort(scans, moved)) - centre(distort(scans, middle))) > 0.5).all()


def transform(**changes: object) -> BatchTransform:
    plain = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 1.0), "num_classes": 10, "label_smoothing": 0.1}
    return BatchTransform(**{**plain, **changes})  # type: ignore[arg-type]


def test_pictures_are_normalised_and_labels_smoothed(scans: Tensor) -> None:
    pixels, labels = (scans * 255).to(torch.uint8), torch.arange(64) % 10
    images, targets = transform()(pixels, labels, numbers())
    torch.testing.assert_close(images, normalise(pixels, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0)))
    torch.testing.assert_close(images[:, 0], (pixels[:, 0].float() / 255 - 0.5) / 0.25)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(64))
    assert targets[3].tolist() == pytest.approx([0.01] * 3 + [0.91] + [0.01] * 6)


def test_smoothed_targets_give_torchs_loss() -> None:
    logits, labels = torch.randn(64, 10), torch.arange(64) % 10
    _, targets = transform()(torch.zeros(64, 3, 8, 8, dtype=torch.uint8), labels, numbers())
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, targets), expected)


def test_mixup_mixes_pictures_and_targets_alike() -> None:
    pixels = (torch.arange(64) % 2 * 255).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone()
    labels = torch.arange(64) % 2
    mixed = transform(mixup=1.0, label_smoothing=0.0, std=(0.5, 0.5, 0.5), mean=(0.0, 0.0, 0.0), num_classes=2)
    images, targets = mixed(pixels, labels, numbers())
    torch.testing.assert_close(images[:, 0, 0, 0] / 2, targets[:, 1])
    assert 0 < targets[0, 0] < 1


def test_random_erasing_touches_some_pictures() -> None:
    pixels = torch.full((64, 3, 16, 16), 200, dtype=torch.uint8)
    images, _ = transform(random_erasing=0.5)(pixels, torch.zeros(64, dtype=torch.long), numbers())
    whole = normalise(pixels, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    touched = (images != whole).flatten(1).any(dim=1).sum()
    assert 10 < touched < 54


def test_rand_augment_at_full_strength_takes_every_picture() -> None:
    """Its recipe, m9-mstd0.5, now and then asks to keep no bit of a picture, which Pillow from 13 on refuses."""
    transform = imagenet_transform(16, 0.5, 0.5, 0.0, "rand-m10-n4-inc1", (0.5, 0.5, 0.5))
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    random.seed(0)
    pictures = [transform(photograph) for _ in range(100)]
    assert {tuple(picture.shape) for picture in pictures} == {(3, 16, 16)}
