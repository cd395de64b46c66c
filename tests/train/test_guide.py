"""Dynamic-guided training: λ, the guide's loss, and the moment in which the dynamic branch goes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from skipvit.checkpoints import load_model
from skipvit.layers.static_attention import StaticAttention
from train import resume
from train.distributed import Process
from train.loop import Trained, fit
from train.recipe import RecipeError, read_recipe
from train.run import main
from train.task import open_task
from train.training import Training

ALONE = Process(0, 1, torch.device("cpu"))
IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def begun(recipe: Path, overrides: list[str], *more: str) -> Training:
    read = read_recipe(recipe, [*overrides, *more])
    return Training.of(read, open_task(read, ALONE), ALONE)


def run(recipe: Path, out: Path, overrides: list[str], *more: str, resuming: bool = False) -> Trained:
    out.mkdir(exist_ok=True)
    return fit(begun(recipe, overrides, *more), out, resuming)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(IMAGES)


def test_strength_rises_with_the_steps_and_then_the_branch_is_gone(
    tiny: Path, guided: list[str], tmp_path: Path
) -> None:
    training = begun(tiny, guided)
    (tmp_path / "run").mkdir()
    assert any(".attn.qk." in name for name in training.model.state_dict())
    fit(training, tmp_path / "run", resuming=False)
    found = [line.get("guide") for line in lines(tmp_path / "run") if "loss" in line]
    assert found == [*(pytest.approx(step / 7) for step in range(7)), *[None] * 5]
    assert not any(".attn.qk." in name for name in training.tensors())
    assert not any(module.guided for module in training.model.modules() if isinstance(module, StaticAttention))


def test_the_static_matrices_come_closer_to_attention_under_the_guide(
    tiny: Path, guided: list[str], tmp_path: Path
) -> None:
    found = {}
    for weight in ("0.0", "100.0"):
        run(tiny, tmp_path / weight, guided, f"guide.weight={weight}", "guide.ramp=1.0", "run.save_every=100")
        found[weight] = [line["guide_kl"] for line in lines(tmp_path / weight) if "guide_kl" in line]
    free, pulled = found.values()
    assert len(free) == len(pulled) == 12
    assert free[0] == pulled[0] > 0
    assert pulled[-1] < 0.6 * pulled[0]
    assert pulled[-1] < 0.5 * free[-1], "the labels alone bring them no closer"


def test_loss_is_labels_plus_guide_against_the_formula(tiny: Path, guided: list[str]) -> None:
    training = begun(tiny, guided)
    training.model.train().set_guide(0.3)  # type: ignore[operator]
    targets = torch.eye(10)[torch.arange(16) % 10]
    seen: dict[StaticAttention, Tensor] = {}
    static = [module for module in training.model.modules() if isinstance(module, StaticAttention)]
    for module in static:
        module.register_forward_pre_hook(lambda m, args: seen.update({m: args[0].detach()}))
    out = training.parallel(IMAGES)
    kl = []
    for module, x in seen.items():
        qk = module.qk(x).reshape(16, 17, 2, 2, 8).permute(2, 0, 3, 1, 4)  # type: ignore[misc]
        a = (qk[0] @ qk[1].transpose(-2, -1) / 8**0.5).softmax(-1)
        kl.append((a * (a / module.matrix()).log()).sum(-1).mean())
    expected = F.cross_entropy(out, targets) + 2.0 * torch.stack(kl).mean()
    assert len(kl) == 2
    torch.testing.assert_close(training.loss(IMAGES, out, targets), expected)


def test_nothing_but_the_branch_goes_when_it_goes(tiny: Path, guided: list[str], tmp_path: Path) -> None:
    run(tiny, tmp_path / "run", guided, "run.steps=5")
    training = begun(tiny, guided)
    resume.load_state(tmp_path / "run", 5, training.tensors(), ALONE)
    training.model.set_guide(1.0)  # type: ignore[operator]
    before, expected = {k: v.clone() for k, v in training.tensors().items()}, logits(training.model)
    training.set_guide(7)
    after = training.tensors()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    gone = before.keys() - after.keys()
    assert {name.split(".attn.")[1].split(".")[0] for name in gone} == {"qk"}
    assert (logits(training.model) - expected).abs().max() < 1e-6
    assert {int(moments["step"]) for moments in training.optimizer.state.values()} == {7}


@pytest.mark.parametrize("ramp", ["0.16", "1.0"])
def test_checkpoint_is_the_plain_static_model_of_the_guided_one(
    tiny: Path, guided: list[str], tmp_path: Path, ramp: str
) -> None:
    settings = [*guided, f"guide.ramp={ramp}"]
    out = tmp_path / "run"
    assert main([str(tiny), "--out", str(out), *(word for s in settings for word in ("--set", s))]) == 0
    model, checkpoint = load_model(out)
    assert "static_guided" not in checkpoint.model_args
    assert not any(".qk." in name for name in model.state_dict())
    # the same state in a guided model, its average in place and λ = 1
    training = begun(tiny, settings)
    state = training.tensors()
    if ramp == "0.16":  # such a state has no dynamic branch to load
        state = {name: tensor for name, tensor in state.items() if ".qk." not in name}
    resume.load_state(out, 12, state, ALONE)
    training.model.set_guide(1.0)  # type: ignore[operator]
    assert training.ema is not None
    with training.ema.in_place():
        assert (logits(training.model) - logits(model)).abs().max() < 1e-6


def test_what_is_evaluated_is_what_would_be_deployed(tiny: Path, guided: list[str], tmp_path: Path) -> None:
    trained = run(tiny, tmp_path / "run", guided, "guide.ramp=1.0", "optim.lr=2e-2", "run.steps=30")
    training = begun(tiny, [*guided, "guide.ramp=0"])
    assert training.ema is not None
    for name, tensor in training.ema.shadow.items():
        tensor.copy_(trained.weights[name])
    assert training.evaluate()["nll"] == pytest.approx(trained.metrics["nll"], abs=1e-6)
    mixed = begun(tiny, [*guided, "guide.ramp=1.0"])
    resume.load_state(tmp_path / "run", 30, mixed.tensors(), ALONE)
    mixed.set_guide(30)
    assert mixed.evaluate()["nll"] == pytest.approx(trained.metrics["nll"], abs=1e-6)


@pytest.mark.parametrize("stop", [4, 7, 9])
def test_a_run_resumed_around_the_moment_is_the_run_that_was_not(
    tiny: Path, guided: list[str], tmp_path: Path, stop: int
) -> None:
    whole = run(tiny, tmp_path / "whole", guided)
    run(tiny, tmp_path / "halves", guided, f"run.steps={stop}")
    resumed = run(tiny, tmp_path / "halves", guided, resuming=True)
    assert resumed.weights.keys() == whole.weights.keys()
    assert all(torch.equal(resumed.weights[name], whole.weights[name]) for name in whole.weights)
    assert resumed.metrics == whole.metrics


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.args.static_guided=true", "model.args has static_guided, which .guide. decides; leave it out"),
        ("model.args.spec='tokens:1/2@2'", "dgssa_glad_micro_patch2_8 with these arguments has none; choose"),
        ("model.name=vit_micro_patch2_8", "cannot be built: .*; .guide. is for models of ours with static blocks"),
    ],
)
def test_models_that_cannot_be_guided_are_refused(tiny: Path, guided: list[str], override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        begun(tiny, guided, override)


def test_ramp_of_zero_guides_nothing(tiny: Path, guided: list[str]) -> None:
    training = begun(tiny, guided, "guide.ramp=0")
    assert not training.guided
    assert not any(".qk." in name for name in training.model.state_dict())
