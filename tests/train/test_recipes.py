"""Every packaged recipe parses, and each ImageNet one takes two real steps on a handful of generated pictures."""

import json
import math
import tomllib
from pathlib import Path

import pytest

from skipvit.checkpoints import load_model
from train.recipe import PACKAGED, read_recipe
from train.run import main

NAMES = sorted(path.stem for path in PACKAGED.glob("*.toml"))
IMAGENET = [name for name in NAMES if not name.startswith("digits")]
# everything that costs time is made small, everything else is the recipe's own
SMALL = [
    "data.image_size=32",
    "data.workers=0",
    "run.batch=4",
    "run.steps=2",
    "run.log_every=1",
    "run.threads=1",
    "run.device=cpu",
    "schedule.epochs=300",
]


def test_the_recipes_are_the_demos_and_the_papers() -> None:
    sizes = {f"{model}_{size}" for model in ("vit", "skipat") for size in ("tiny", "small", "base")}
    assert set(NAMES) == sizes | {"digits_vit", "digits_skipat"}


@pytest.mark.parametrize("name", NAMES)
def test_recipe_parses_and_says_its_command_and_result(name: str) -> None:
    recipe = read_recipe(name)
    header = [line for line in (PACKAGED / f"{name}.toml").read_text().splitlines() if line.startswith("#")]
    assert any(f" {name} " in f"{line} " and ("skipvit-train" in line or "train.run" in line) for line in header)
    assert any("% top-1" in line for line in header)
    assert recipe.model.name.startswith(name.split("_")[1 if name.startswith("digits") else 0])


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_recipe_has_the_papers_settings(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.schedule.epochs == 300
    assert recipe.run.batch == (2048 if name.endswith("tiny") else 1024)
    assert recipe.optim.lr == pytest.approx(5e-4 * recipe.run.batch / 512)


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_vit_and_skipat_differ_in_the_model_alone(size: str) -> None:
    vit, skipat = (tomllib.loads((PACKAGED / f"{m}_{size}.toml").read_text()) for m in ("vit", "skipat"))
    assert vit.pop("model") != skipat.pop("model")
    assert vit == skipat


def test_digits_recipes_differ_in_the_model_alone() -> None:
    vit, skipat = (tomllib.loads((PACKAGED / f"digits_{m}.toml").read_text()) for m in ("vit", "skipat"))
    assert vit.pop("model") != skipat.pop("model")
    assert vit == skipat


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_recipe_takes_two_steps(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the base models at full width take seconds per step on one core; depth and names are theirs
    narrow = ["model.args.embed_dim=96", "model.args.num_heads=3"] if not name.endswith("tiny") else []
    settings = [*SMALL, *narrow, f"data.uri=imagefolder:{folder}"]
    out = tmp_path / "run"
    assert main([name, "--out", str(out), *(word for s in settings for word in ("--set", s))]) == 0
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()[:2]]
    assert all(math.isfinite(loss) for loss in losses)
    model, checkpoint = load_model(out)
    assert checkpoint.architecture == f"{name}_patch16_224"
    assert len(model.blocks) == 12
    assert checkpoint.labels == ("ant", "bee")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["checkpoint"] == str(out)
