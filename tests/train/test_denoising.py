"""Denoising as a task: its loss, its batches, runs that are resumed, and what a run leaves."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skipvit.checkpoints import load_model, read_checkpoint, read_clean_samples
from tests.train.fake_sidd import write_sidd
from train.denoising import Denoising, centre_crops, charbonnier, held_out_quality, mixed
from train.distributed import Process
from train.loop import Trained, fit
from train.noise import evaluation_noise
from train.photographs import open_photographs
from train.picture_quality import quality
from train.pictures import DataError
from train.recipe import RecipeError, read_recipe
from train.run import main
from train.task import Place, open_task
from train.training import Training

Write = Callable[..., Path]

ALONE = Process(0, 1, torch.device("cpu"))


def task_of(recipe: Path, *overrides: str) -> Denoising:
    task = open_task(read_recipe(recipe, overrides), ALONE)
    assert isinstance(task, Denoising)
    return task


def run(recipe: Path, out: Path, *overrides: str, resuming: bool = False) -> Trained:
    read = read_recipe(recipe, overrides)
    out.mkdir(exist_ok=True)
    return fit(Training.of(read, open_task(read, ALONE), ALONE), out, resuming)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_charbonnier_is_the_formula_and_its_gradient_is_its_own() -> None:
    one, other = (torch.rand(2, 3, 4, 4, dtype=torch.float64) for _ in range(2))
    expected = np.sqrt((one.numpy() - other.numpy()) ** 2 + 1e-3**2).mean()
    assert float(charbonnier(one, other, 1e-3)) == pytest.approx(expected, rel=1e-12)
    one.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: charbonnier(x, other, 0.1), one)
    charbonnier(one, one.detach(), 1e-3).backward()
    assert one.grad is not None
    assert one.grad.isfinite().all(), "also where nothing differs"


def test_mixup_blends_noisy_and_clean_alike() -> None:
    torch.manual_seed(0)
    clean = torch.rand(6, 3, 4, 4)
    noisy, blended = mixed(clean + 1, clean, 1.2)
    torch.testing.assert_close(noisy, blended + 1)
    weights = set()
    for row in range(6):
        fits = []
        for other in range(6):
            d = (clean[row] - clean[other]).flatten()
            weight = float((blended[row] - clean[other]).flatten() @ d / (d @ d)) if other != row else 1.0
            if (blended[row] - (weight * clean[row] + (1 - weight) * clean[other])).abs().max() < 1e-5:
                fits.append(weight)
        assert fits, "a blend of it and one other, or itself"
        weights.add(min(fits))
        assert 0 <= min(fits) <= 1
    assert len(weights) > 3, "each patch by its own weight"


def test_mixup_begins_after_its_epoch(tiny_denoiser: Path) -> None:
    task = task_of(tiny_denoiser)
    noisy, clean = torch.rand(4, 3, 16, 16), torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    before = task.prepare(noisy, clean, Place(5, 6, slice(0, 4)))
    assert before[0] is noisy
    torch.testing.assert_close(before[1], clean / 255)
    after = task.prepare(noisy, clean, Place(6, 6, slice(0, 4)))
    assert (after[0] - noisy).abs().max() > 0.01


def test_halves_of_a_run_are_the_whole_run_bit_for_bit(tiny_denoiser: Path, tmp_path: Path) -> None:
    whole = run(tiny_denoiser, tmp_path / "whole")
    assert whole.step == 12
    for stop in (5, 8):
        run(tiny_denoiser, tmp_path / f"half{stop}", f"run.steps={stop}")
        resumed = run(tiny_denoiser, tmp_path / f"half{stop}", resuming=True)
        assert all(torch.equal(resumed.weights[name], whole.weights[name]) for name in whole.weights)
        assert resumed.metrics == whole.metrics
    other = run(tiny_denoiser, tmp_path / "other", "run.seed=1")
    assert any(not torch.equal(other.weights[name], whole.weights[name]) for name in whole.weights)


def test_accumulation_and_workers_equal_the_big_batch(tiny_denoiser: Path, tmp_path: Path) -> None:
    calm = ["model.args.drop_path_rate=0.0", "augment.mixup=0.0", "run.steps=3"]
    whole = run(tiny_denoiser, tmp_path / "whole", *calm)
    parts = run(tiny_denoiser, tmp_path / "parts", *calm, "run.accumulate=2", "data.workers=1")
    far = max((whole.weights[name] - parts.weights[name]).abs().max().item() for name in whole.weights)
    assert far < 1e-5


def test_it_learns(tiny_denoiser: Path, tmp_path: Path) -> None:
    easy = ["noise.sigma=50", "noise.held_out_sigma=50", "noise.kinds=['gaussian']", "model.args.drop_path_rate=0.0",
            "data.patches_per_epoch=120", "optim.lr=4e-3", "augment.mixup=0.0"]  # fmt: skip
    trained = run(tiny_denoiser, tmp_path / "run", *easy)
    losses = [line["loss"] for line in lines(tmp_path / "run") if "loss" in line]
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    data = open_photographs(f"gaussian:{tmp_path / 'clean'}")
    noisy = held_out_quality(nn.Identity(), data, 50, ALONE)
    assert trained.metrics["psnr"] > noisy[0].psnr + 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["photos_uformer", "photos_skipat"])
def test_demo_recipe_reaches_its_psnr(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    assert run(Path(name), tmp_path / "run").metrics["psnr"] >= 31.8


def test_a_run_leaves_a_checkpoint(tiny_denoiser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main([str(tiny_denoiser), "--out", str(out)]) == 0
    model, checkpoint = load_model(out)
    assert (checkpoint.task, checkpoint.labels, checkpoint.preprocessing) == ("denoising", (), None)
    assert checkpoint.architecture == "skipat_uformer_micro"
    assert checkpoint.evaluation is not None
    assert checkpoint.evaluation.dataset == f"1 pictures of {tmp_path / 'clean'}, Gaussian noise of sigma 25"
    assert checkpoint.evaluation.images == 1
    assert checkpoint.recipe == json.loads((out / "recipe.json").read_text())
    # the checkpoint's own model gives the figures that it claims
    clean = np.asarray(open_photographs(f"gaussian:{tmp_path / 'clean'}").held_out.open(0).clean)
    noisy = evaluation_noise(clean.astype(np.float32) / np.float32(255), 25, "a")
    with torch.no_grad():
        restored = model(torch.from_numpy(noisy).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert checkpoint.evaluation.metrics == pytest.approx(asdict(quality(restored, clean)), abs=1e-4)
    samples = read_clean_samples(out)
    assert samples is not None
    assert samples.names == ("a",)
    assert (samples.images[0] == clean[:32, 4:36]).all()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["psnr"] == checkpoint.evaluation.metrics["psnr"]


def test_a_denoiser_goes_on_from_a_checkpoint(tiny_denoiser: Path, tmp_path: Path) -> None:
    trained = run(tiny_denoiser, tmp_path / "first", "run.steps=2")
    assert main([str(tiny_denoiser), "--out", str(tmp_path / "run"), "--set", "run.steps=2"]) == 0
    read = read_recipe(tiny_denoiser, [f"model.weights={tmp_path / 'run'}"])
    started = Training.of(read, open_task(read, ALONE), ALONE)
    assert all(torch.equal(tensor, trained.weights[name]) for name, tensor in started.model.state_dict().items())


def test_a_denoiser_starts_from_released_weights(tiny_denoiser: Path, tmp_path: Path) -> None:
    recipe = read_recipe(tiny_denoiser)
    released = Training.of(recipe, open_task(recipe, ALONE), ALONE).model.state_dict()
    moved = {f"module.{name}": value + value.is_floating_point() for name, value in released.items()}
    torch.save({"epoch": 250, "state_dict": moved}, tmp_path / "U.pth")
    recipe = read_recipe(tiny_denoiser, [f"model.weights={tmp_path / 'U.pth'}"])
    started = Training.of(recipe, open_task(recipe, ALONE), ALONE)
    assert started.started_from == f"weights of {tmp_path / 'U.pth'}"
    for name, value in started.model.state_dict().items():
        assert torch.equal(value, released[name] + value.is_floating_point()), name
    recipe = read_recipe(tiny_denoiser, [f"model.weights={tmp_path / 'U.pth'}", "model.args.skip=odd"])
    with pytest.raises(RecipeError, match=r"give model\.name and model\.args as it was"):
        Training.of(recipe, open_task(recipe, ALONE), ALONE)


def test_pairs_are_trained_on_as_they_are(tiny_denoiser: Path, tmp_path: Path) -> None:
    text = tiny_denoiser.read_text()
    tiny_denoiser.write_text(text[: text.index("[noise]")] + text[text.index("[augment]") :])
    uri = f"sidd:{write_sidd(tmp_path / 'sidd')}"
    out = tmp_path / "run"
    assert main([str(tiny_denoiser), "--out", str(out), "--set", f"data.uri={uri}", "--set", "run.steps=2"]) == 0
    evaluation = read_checkpoint(out).evaluation
    assert evaluation is not None
    assert (evaluation.dataset, evaluation.images) == ("SIDD validation, 6 blocks", 6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.name=vit_micro_patch2_8", "model.args={}"],
         "'vit_micro_patch2_8' is a model for classification, and the recipe's task is denoising"),
        (["data.uri=pairs:CLEAN/../pairs"], r"\[noise\] is for clean pictures, and those of pairs:.* have their own"),
        (["data.uri=gaussian:CLEAN?sigma=25"], r"and \[noise\] both say which noise is added"),
        (["noise.sigma=loud"], "noise.sigma: 'loud' is none of 25, 15,25,50 and 5-50"),
        (["noise.quality=0-50"], "noise.quality: '0-50': levels must be from 1 to 100"),
        (["noise.kinds=[]"], "noise.kinds"),
        (["noise.sigam=5"], r"unknown key noise.sigam = 5; did you mean noise.sigma\?"),
        (["data.image_size=32"], "unknown key data.image_size = 32"),
        (["optim.label_smoothing=0.1"], "unknown key optim.label_smoothing"),
        (["run.batch=25"], "run.batch = 25 is more than the 24 training pictures"),
        (["run.batch=4", "run.accumulate=4"], "augment.mixup mixes patches of a part with each other, and parts have"),
        (["model.weights=uformer_micro"], "model.weights = 'uformer_micro'"),
        (["model.args.in_chans=1"], "model.args has in_chans = 1, and pictures have 3 channels"),
    ],
)  # fmt: skip
def test_recipe_that_does_not_fit_is_refused(
    tiny_denoiser: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    for part in ("noisy", "gt"):
        (tmp_path / "pairs" / part).mkdir(parents=True)
        for name in ("a.png", "b.png"):
            (tmp_path / "pairs" / part / name).write_bytes((tmp_path / "clean" / name).read_bytes())
    with pytest.raises(RecipeError, match=message):
        run(tiny_denoiser, tmp_path / "run", *(text.replace("CLEAN", str(tmp_path / "clean")) for text in overrides))


def test_classifiers_recipe_refuses_a_denoiser(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'uformer_micro' is a model for denoising, and the recipe's task is class"):
        run(tiny, tmp_path / "run", "model.name=uformer_micro", "model.args={}")


def test_held_out_picture_too_small_to_measure_is_named(tiny_denoiser: Path, tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "clean" / "a.png", size=(6, 40))
    with pytest.raises(DataError, match="a is 6 x 40 pixels, and SSIM needs 7 on each side"):
        task_of(tiny_denoiser).evaluate(nn.Identity())


def test_sigma_of_the_uri_is_what_is_trained_and_evaluated_on(tiny_denoiser: Path, tmp_path: Path) -> None:
    text = tiny_denoiser.read_text()
    tiny_denoiser.write_text(text[: text.index("[noise]")] + text[text.index("[augment]") :])
    fixed = task_of(tiny_denoiser, f"data.uri=gaussian:{tmp_path / 'clean'}?sigma=15")
    assert fixed.describe().held_out.endswith("sigma 15")
    assert task_of(tiny_denoiser).describe().held_out.endswith("sigma 25")


def test_crops_are_of_one_size_and_from_the_middle() -> None:
    pictures = [np.random.default_rng(i).integers(0, 256, (h, w, 3), dtype=np.uint8)
                for i, (h, w) in enumerate(((300, 451), (512, 512), (427, 640)))]  # fmt: skip
    crops = centre_crops(pictures, 512)
    assert crops.shape == (3, 256, 384, 3)
    assert (crops[0] == pictures[0][22:278, 33:417]).all()
    assert centre_crops([p[:40, :20] for p in pictures], 512).shape == (3, 32, 20, 3)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_model_is_left_in_its_mode(tiny_denoiser: Path) -> None:
    model = Doubled().train()
    assert set(task_of(tiny_denoiser).evaluate(model)) == {"psnr", "psnr_float", "ssim"}
    assert model.training
