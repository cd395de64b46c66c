"""Imitation: its loss by hand, and that it teaches; variation and fidelity, which it is built and judged with."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skipvit.models import SkipVisionTransformer, create_model
from skipvit.transforms import Preprocessing
from train.augment import GlyphDistortion
from train.conversion import ConversionError
from train.distributed import Process
from train.fidelity import fidelity
from train.imitation import Lesson, affordable_steps, answers, distance, imitate
from train.variation import AsTheyAre, Glyphs, Photographs, Variation

PREPROCESSING = Preprocessing(height=8, width=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def vit(**args: Any) -> Any:
    torch.manual_seed(0)
    model = create_model("vit_micro_patch2_8", embed_dim=16, depth=4, num_heads=2, **args)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def lesson(spec: str, lr: float = 3e-3, teacher: Any = None) -> Lesson:
    teacher = teacher or vit()
    pixels = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    student = SkipVisionTransformer.from_vit(teacher, spec).eval()
    return Lesson(teacher, student, pixels, AsTheyAre(), PREPROCESSING, 16, lr, 0, Process(0, 1, torch.device("cpu")))


def test_the_distance_of_tokens_is_its_formula() -> None:
    a, b = torch.randn(2, 3, 4, 5, dtype=torch.float64).unbind(0)
    assert float(distance(a, b)) == pytest.approx(float(((b - a) ** 2).sum() / (a**2).sum()), rel=1e-12)
    assert float(distance(a, a)) == 0


@pytest.mark.parametrize("args", [{}, {"reg_tokens": 2}, {"global_pool": "avg", "class_token": False}])
def test_answers_are_the_models_own(args: dict[str, Any]) -> None:
    model, images = vit(**args), torch.randn(2, 3, 8, 8)
    student = SkipVisionTransformer.from_vit(model, "skip:1").eval()
    with torch.no_grad():
        tokens, logits = answers(student, images)
        assert torch.equal(tokens, student.forward_features(images))
        assert torch.equal(logits, student(images))
        shrunk = SkipVisionTransformer.from_vit(model, "tokens:1/2@2").eval()
        assert answers(shrunk, images)[0].shape == model.forward_features(images).shape


@pytest.mark.parametrize("spec", ["skip:1-2", "static:0-1", "tokens:1/2@1", "static:0 skip:2 tokens:2x2@1"])
def test_it_brings_the_student_to_the_teachers_answers(spec: str, tmp_path: Any) -> None:
    taught = lesson(spec)
    images = taught.pixels.float() / 127.5 - 1
    with torch.no_grad():
        wanted, before = taught.teacher(images), fidelity(taught.teacher(images), taught.student(images))
    teacher_before = {name: value.clone() for name, value in taught.teacher.state_dict().items()}
    assert imitate(taught, 60, tmp_path, resuming=False) is None
    with torch.no_grad():
        after = fidelity(wanted, taught.student(images))
    assert after.kl < 0.3 * before.kl
    assert after.agreement > before.agreement
    assert all(torch.equal(value, teacher_before[name]) for name, value in taught.teacher.state_dict().items())


def test_what_explodes_is_told(tmp_path: Any) -> None:
    with pytest.raises(ConversionError, match=r"in step \d+ of 40; nothing was kept: try a lower --lr"):
        imitate(lesson("skip:1-2", lr=1e18), 40, tmp_path, resuming=False)


def test_steps_are_cut_to_the_time_there_is() -> None:
    taught = lesson("skip:1")
    assert affordable_steps(taught, 0, 100.0) == 0
    assert affordable_steps(taught, 500, 1e6) == 500
    assert affordable_steps(taught, 500, -3.0) == 1
    assert 1 < affordable_steps(taught, 10**9, 5.0) < 10**6
    assert all(p.grad is None for p in taught.student.parameters())


@pytest.mark.parametrize("variation", [Photographs(), Glyphs(GlyphDistortion()), AsTheyAre()])
def test_variation_follows_from_seed_and_step(variation: Variation) -> None:
    pixels = torch.randint(0, 256, (6, 3, 12, 8), dtype=torch.uint8)
    first = variation(pixels, 3, 7)
    assert first.shape == pixels.shape
    assert first.min() >= 0
    assert first.max() <= 1 + 1e-6
    assert torch.equal(first, variation(pixels, 3, 7))
    if not isinstance(variation, AsTheyAre):
        assert not torch.equal(first, variation(pixels, 3, 8))
        assert not torch.equal(first, variation(pixels, 4, 7))


def test_photographs_that_do_not_move_are_as_they_were() -> None:
    pixels = torch.randint(0, 256, (4, 3, 10, 14), dtype=torch.uint8)
    still = Photographs(zoom=1.0, rotation=0.0, mix=False)(pixels, 0, 0)
    assert (still - pixels.float() / 255).abs().max() < 1e-5


def test_photographs_turn_rigidly_on_any_grid() -> None:
    """A disc stays a disc: columns and rows are turned in pixels, not in the picture's own coordinates."""
    y, x = np.mgrid[:40, :80]
    disc = ((y - 19.5) ** 2 + (x - 39.5) ** 2 < 8**2).astype(np.uint8) * 255
    pixels = torch.from_numpy(disc).expand(8, 3, 40, 80)
    turned = Photographs(zoom=1.0, rotation=80.0, mix=False)(pixels, 0, 0)
    difference = (turned - pixels.float() / 255).abs()[:, :, 8:32, 28:52]  # away from what is reflected at the edges
    assert difference.mean() < 0.03  # its edge is blurred


def test_half_of_a_batch_is_mixed() -> None:
    pixels = torch.stack([torch.full((3, 8, 8), value, dtype=torch.uint8) for value in (0, 255, 0, 255)])
    mixed: Tensor = Photographs()(pixels, 0, 0).mean(dim=(1, 2, 3))
    assert mixed[0] == 0
    assert mixed[2] == 0
    assert 0.5 <= float(mixed[1]) < 1
    assert 0.5 <= float(mixed[3]) < 1


def test_fidelity_is_its_formulas() -> None:
    a, b = torch.randn(2, 9, 4).unbind(0)
    p, q = (np.exp(x.double().numpy()) / np.exp(x.double().numpy()).sum(axis=1, keepdims=True) for x in (a, b))
    found = fidelity(a, b)
    assert found.kl == pytest.approx(np.mean(np.sum(p * np.log(p / q), axis=1)), rel=1e-9)
    assert found.agreement == np.mean(p.argmax(axis=1) == q.argmax(axis=1))
    cosines = [float(x @ y / x.norm() / y.norm()) for x, y in zip(a.double(), b.double(), strict=True)]
    assert found.cosine == pytest.approx(np.mean(cosines), rel=1e-12)
    same = fidelity(a, a)
    assert (same.agreement, same.kl) == (1, 0)
