"""Distillation against the formulas in NumPy, and what the teacher sees."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skipvit.transforms import Preprocessing
from train import classification_build as build
from train.distributed import Process
from train.loop import fit
from train.recipe import RecipeError, read_recipe
from train.run import main
from train.task import open_task
from train.teacher import Distillation, open_teacher
from train.training import Training

ALONE = Process(0, 1, torch.device("cpu"))
DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Path:
    """A checkpoint of the tiny recipe."""
    folder = tmp_path_factory.mktemp("teacher")
    (folder / "tiny.toml").write_text(tiny_text)
    assert main([str(folder / "tiny.toml"), "--out", str(folder / "run"), "--set", "run.steps=2"]) == 0
    return folder / "run"


class Says(nn.Module):
    """A teacher that says the same of every picture."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return 1.0 * self.logits


def numbers() -> tuple[Tensor, Tensor, Tensor]:
    """Logits (5, 3) of student and teacher, and mixed targets."""
    generator = torch.Generator().manual_seed(1)
    s, t = (3 * torch.randn(5, 3, generator=generator) for _ in range(2))
    return s, t, torch.rand(5, 3, generator=generator).softmax(dim=1)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_soft_targets_are_the_formula(temperature: float, weight: float) -> None:
    s, t, y = numbers()
    distil = Distillation(Says(t), "soft", temperature, weight)
    loss = nn.functional.cross_entropy(s, y)
    p, q = softmax(t.double().numpy() / temperature), softmax(s.double().numpy() / temperature)
    entropy = -(y.double().numpy() * np.log(softmax(s.double().numpy()))).sum(1).mean()
    kl = (p * np.log(p / q)).sum(1).mean()
    expected = (1 - weight) * entropy + weight * temperature**2 * kl
    assert float(distil(torch.zeros(5, 3, 8, 8), s, loss)) == pytest.approx(expected, rel=1e-5)


def test_hard_targets_are_the_formula() -> None:
    s, t, y = numbers()
    distil = Distillation(Says(t), "hard", 7.0, 0.4)
    loss = nn.functional.cross_entropy(s, y)
    log = np.log(softmax(s.double().numpy()))
    entropy = -(y.double().numpy() * log).sum(1).mean()
    taught = -log[np.arange(5), t.numpy().argmax(1)].mean()
    assert float(distil(torch.zeros(5, 3, 8, 8), s, loss)) == pytest.approx(0.6 * entropy + 0.4 * taught, rel=1e-5)


def test_student_learns_and_teacher_does_not() -> None:
    s, t, y = numbers()
    s.requires_grad_()
    t.requires_grad_()
    Distillation(Says(t), "soft", 2.0, 1.0)(torch.zeros(5, 3, 8, 8), s, nn.functional.cross_entropy(s, y)).backward()
    assert t.grad is None
    assert s.grad is not None
    # d/ds T² KL(p || softmax(s/T)) = T (softmax(s/T) - p) / B
    expected = 2.0 * ((s / 2).softmax(1) - (t / 2).softmax(1)).detach() / 5
    torch.testing.assert_close(s.grad, expected)


@pytest.mark.parametrize("mixup", ["0.0", "0.8"])
def test_teacher_sees_the_students_pictures_and_stays_as_it_is(
    tiny: Path, teacher: Path, tmp_path: Path, mixup: str
) -> None:
    recipe = read_recipe(tiny, [f"distill.teacher={teacher}", f"augment.mixup={mixup}", "run.steps=3"])
    training = Training.of(recipe, open_task(recipe, ALONE), ALONE)
    assert training.task.distillation is not None
    model, seen = training.task.distillation.teacher, [list[Tensor](), list[Tensor]()]
    assert not any(parameter.requires_grad for parameter in model.parameters())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for m, images in zip((model, training.model), seen, strict=True):
        m.register_forward_pre_hook(
            lambda m, args, images=images: images.append(args[0].clone()) if m.training or m is model else None
        )
    fit(training, tmp_path, resuming=False)
    assert len(seen[0]) == len(seen[1]) == 3
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_run_with_a_teacher_learns_from_it(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    losses = {}
    for weight in ("0.0", "1.0"):
        out = tmp_path / weight
        settings = [f"distill.teacher={teacher}", f"distill.weight={weight}", "run.steps=4"]
        assert main([str(tiny), "--out", str(out), *(word for s in settings for word in ("--set", s))]) == 0
        losses[weight] = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()[:4]]
    assert losses["0.0"][0] == pytest.approx(2.3, abs=0.1), "the cross entropy of ten classes"
    assert losses["1.0"][0] < 0.1, "of no label: both know next to nothing"


def test_no_teacher_costs_nothing(tiny: Path) -> None:
    recipe = read_recipe(tiny, ["distill.weight=0.9"])
    assert build.distillation(recipe, DIGITS, torch.device("cpu")) is None


def test_other_classes_are_refused(teacher: Path) -> None:
    preprocessing = build.preprocessing_of(read_recipe(teacher / "recipe.json").data)
    swapped = ("1", "0", *DIGITS[2:])
    with pytest.raises(RecipeError, match=r"run' knows 10 classes, the data has 9; choose a teacher trained on these"):
        open_teacher(str(teacher), preprocessing, DIGITS[:9], other_names=True)
    with pytest.raises(RecipeError, match=r"calls class 0 '0', the data '1'; .* or set distill.other_names=true"):
        open_teacher(str(teacher), preprocessing, swapped, other_names=False)
    assert not open_teacher(str(teacher), preprocessing, swapped, other_names=True).training


def test_another_preprocessing_is_refused(teacher: Path) -> None:
    data = read_recipe(teacher / "recipe.json").data
    own = build.preprocessing_of(data)
    other = Preprocessing(height=8, width=8, resize="squash", interpolation="bilinear", mean=own.mean, std=own.std)
    with pytest.raises(RecipeError, match=r"another preprocessing: interpolation box where the recipe has bilinear; "):
        open_teacher(str(teacher), other, DIGITS, other_names=False)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("runs/nowhere", r"distill.teacher = 'runs/nowhere' is neither a checkpoint .*: .*no checkpoint.json"),
        ("vit_nano", r"distill.teacher = 'vit_nano' is neither .*: no model is named 'vit_nano'"),
        ("vit_micro_patch2_8", r"'vit_micro_patch2_8' is neither .* nor a timm model whose weights can be had: "),
    ],
)
def test_no_teacher_of_that_name(tiny: Path, source: str, message: str) -> None:
    recipe = read_recipe(tiny, [f"distill.teacher={source}"])
    with pytest.raises(RecipeError, match=message):
        Training.of(recipe, open_task(recipe, ALONE), ALONE)
