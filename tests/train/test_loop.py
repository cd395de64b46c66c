"""The loop: accumulation, the guard against non-finite losses, and that it learns."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from train import loop
from train.distributed import Process
from train.loop import Trained, TrainingError, fit
from train.pictures import DataError
from train.recipe import RecipeError, read_recipe
from train.task import open_task
from train.training import Training

ALONE = Process(0, 1, torch.device("cpu"))


def run(recipe: Path, out: Path, *overrides: str, resuming: bool = False) -> Trained:
    read = read_recipe(recipe, overrides)
    out.mkdir(exist_ok=True)
    return fit(Training.of(read, open_task(read, ALONE), ALONE), out, resuming)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def far(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_accumulation_equals_the_big_batch(tiny: Path, tmp_path: Path) -> None:
    # drop path draws per part, so it is off; the rest, glyph distortion too, follows the picture
    whole = run(tiny, tmp_path / "whole", "model.args.drop_path_rate=0.0")
    parts = run(tiny, tmp_path / "parts", "model.args.drop_path_rate=0.0", "run.accumulate=4")
    assert far(whole.weights, parts.weights) < 1e-5
    for one, other in zip(lines(tmp_path / "whole"), lines(tmp_path / "parts"), strict=True):
        assert one.get("loss") == pytest.approx(other.get("loss"), abs=1e-5)


def test_two_runs_are_equal_and_two_seeds_are_not(tiny: Path, tmp_path: Path) -> None:
    first, second = run(tiny, tmp_path / "1").weights, run(tiny, tmp_path / "2").weights
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert far(first, run(tiny, tmp_path / "3", "run.seed=1").weights) > 1e-3


def test_average_is_what_is_kept(tiny: Path, tmp_path: Path) -> None:
    average = run(tiny, tmp_path / "1").weights
    assert far(average, run(tiny, tmp_path / "2", "optim.ema_decay=0.0").weights) > 1e-4


def test_loss_falls_and_accuracy_rises(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    easy = [
        "augment.kind=none",
        "model.args.drop_path_rate=0.0",
        "model.args.embed_dim=32",
        "optim.lr=5e-3",
        "optim.ema_decay=0.0",
    ]
    trained = run(tiny, out, *easy, "schedule.epochs=5", "run.steps=0", "run.save_every=1000")
    losses = [line["loss"] for line in lines(out) if "loss" in line]
    assert len(losses) == 5 * 22
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert trained.metrics["top1"] > 0.3, "three times chance"


def test_metrics_are_written_in_order(tiny: Path, tmp_path: Path) -> None:
    run(tiny, tmp_path / "run")
    found = lines(tmp_path / "run")
    assert [line["step"] for line in found] == [*range(1, 13), 12]
    assert found[-1].keys() >= {"epoch", "top1", "top5", "nll", "brier", "ece"}
    assert all(line["images_per_s"] > 0 and line["grad_norm"] > 0 for line in found[:-1])
    assert found[0]["lr"] == pytest.approx(2e-3 / 4)  # warm-up of 0.2 epochs of 22 steps


def test_tensorboard_gets_the_curves(tiny: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tiny, tmp_path / "run", "run.tensorboard=true")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 13))
    assert [event.step for event in events.Scalars("top1")] == [12]


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_non_finite_stops_the_run_before_it_spoils_the_weights(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: str
) -> None:
    honest = loop.backward

    def poisoned(training: Training, batches: Any, step: int) -> float:
        loss = honest(training, batches, step)
        if step == 5 and poison == "gradient":
            next(training.model.parameters()).grad.fill_(float("inf"))  # type: ignore[union-attr]
        return float("nan") if step == 5 and poison == "loss" else loss

    monkeypatch.setattr(loop, "backward", poisoned)
    with pytest.raises(
        TrainingError, match=r"in step 6 \(epoch 0.3, lr .*start again in another --out with a lower optim.lr"
    ):
        run(tiny, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "state").iterdir()] == ["step-00000004"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.args.num_classes=5", r"model.args has num_classes, but the data decides: it has 10"),
        ("run.batch=1438", r"run.batch = 1438 is more than the 1437 training pictures"),
        ("model.name=vit_mikro_patch2_8", r"no model is named 'vit_mikro_patch2_8'; did you mean"),
        ("model.args.depht=3", r"model.name = 'skipat_micro_patch2_8' cannot be built: .*depht"),
    ],
)
def test_recipe_that_does_not_fit_is_refused(tiny: Path, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        run(tiny, tmp_path / "run", override)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_training_picture_is_named(tiny: Path, folder: Path, tmp_path: Path, workers: int) -> None:
    bad = folder / "train" / "bee" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(DataError, match=r"^\S*train/bee/3.png is not a readable picture \(.*\); repair or remove it$"):
        run(tiny, tmp_path / "run", f"data.uri=imagefolder:{folder}", "run.batch=16", f"data.workers={workers}")


def test_any_timm_model_trains(tiny: Path, folder: Path, tmp_path: Path) -> None:
    tiny.write_text(tiny.read_text().replace("args = {", "args = {} #"))
    settings = ["model.name=test_resnet", "data.image_size=32", f"data.uri=imagefolder:{folder}", "run.batch=8"]
    trained = run(tiny, tmp_path / "run", *settings, "run.steps=2", "augment.kind=none")
    assert trained.stopped_by is None
    assert trained.weights["bn1.num_batches_tracked"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_vit", "digits_skipat", "digits_dgssa", "digits_glad", "digits_dgssa_glad"])
def test_demo_recipe_reaches_its_accuracy(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    assert run(Path(name), tmp_path / "run").metrics["top1"] >= 0.96


def test_parts_of_an_odd_size_cannot_be_mixed(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"run.batch = 63 over 1 processes and run.accumulate 1 gives parts of 63"):
        run(tiny, tmp_path / "run", "augment.mixup=0.8", "run.batch=63")
