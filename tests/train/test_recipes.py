"""Every packaged recipe parses, and those for large data take two real steps on a handful of generated pictures."""

import json
import math
import shlex
import tomllib
from pathlib import Path

import pytest

from skipvit.checkpoints import Checkpoint, load_model, save_checkpoint
from skipvit.models import SkipVisionTransformer, create_model
from skipvit.transforms import Preprocessing
from tests.train.fake_sidd import write_sidd
from train.denoising_recipe import Recipe as DenoisingRecipe
from train.recipe import PACKAGED, read_recipe
from train.run import main

# those for video are in test_video_denoising.py
NAMES = sorted(path.stem for path in PACKAGED.glob("*.toml") if read_recipe(path).task != "video-denoising")
DENOISERS = [name for name in NAMES if read_recipe(name).task == "denoising"]
SIDD = [name for name in DENOISERS if "uformer_" in name]
IMAGENET = [name for name in NAMES if not name.startswith("digits") and name not in DENOISERS]
FROM_SCRATCH = [name for name in IMAGENET if not name.startswith("dgssa")]
DIGITS = [name for name in NAMES if name.startswith("digits")]
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
ALONE = ["model.weights=none", "distill.teacher=none"]  # no one else's weights


def test_the_recipes_are_the_demos_and_the_papers() -> None:
    sizes = {f"{model}_{size}" for model in ("vit", "skipat") for size in ("tiny", "small", "base")}
    digits = {f"digits_{model}" for model in ("vit", "skipat", "dgssa", "glad", "dgssa_glad")}
    photos = {f"photos_{model}" for model in ("uformer", "skipat", "skipat_long")}
    sidd = {f"{model}_{size}" for model in ("uformer", "skipat_uformer") for size in ("tiny", "small", "base")}
    assert set(NAMES) == sizes | digits | photos | sidd | {"dgssa_glad_small"}


@pytest.mark.parametrize("name", NAMES)
def test_recipe_parses_and_says_its_command_and_result(name: str) -> None:
    recipe = read_recipe(name)
    header = [line for line in (PACKAGED / f"{name}.toml").read_text().splitlines() if line.startswith("#")]
    assert any(f" {name} " in f"{line} " and ("skipvit-train" in line or "train.run" in line) for line in header)
    assert any(("dB PSNR" if name in DENOISERS else "% top-1") in line for line in header)
    assert recipe.model.name.startswith(name.split("_")[1 if name.startswith(("digits", "photos")) else 0])


@pytest.mark.parametrize("name", FROM_SCRATCH)
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


@pytest.mark.parametrize("name", DIGITS)
def test_digits_recipes_differ_in_model_and_guide_alone(name: str) -> None:
    vit, other = (tomllib.loads((PACKAGED / f"{n}.toml").read_text()) for n in ("digits_vit", name))
    assert other.pop("model") == {"name": f"{name.removeprefix('digits_')}_micro_patch2_8"}
    assert vit.pop("model")
    assert ("guide" in other) == ("dgssa" in name)
    other.pop("guide", None)
    assert vit == other


@pytest.mark.parametrize("name", SIDD)
def test_sidd_recipe_has_uformers_settings(name: str) -> None:
    recipe = read_recipe(name)
    assert isinstance(recipe, DenoisingRecipe)
    assert (recipe.schedule.epochs, recipe.schedule.warmup_epochs, recipe.schedule.min_lr) == (250, 3, 1e-6)
    assert (recipe.run.batch, recipe.data.patch, recipe.data.patches_per_epoch) == (32, 128, 0)
    assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.optim.betas) == (2e-4, 0.02, (0.9, 0.999))
    assert (recipe.augment.mixup, recipe.augment.mixup_after, recipe.augment.permute_channels) == (1.2, 5, False)
    assert recipe.model.name == name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("uformer_tiny", "skipat_uformer_tiny"),
        ("uformer_small", "skipat_uformer_small"),
        ("uformer_base", "skipat_uformer_base"),
        ("photos_uformer", "photos_skipat"),
    ],
)
def test_denoisers_with_and_without_skipping_differ_in_the_model_alone(one: str, other: str) -> None:
    plain, skipat = (tomllib.loads((PACKAGED / f"{name}.toml").read_text()) for name in (one, other))
    assert skipat.pop("model")["name"] == "skipat_" + plain.pop("model")["name"]
    assert plain == skipat


def test_long_recipe_goes_on_where_the_demo_stops() -> None:
    demo, long = (read_recipe(name) for name in ("photos_skipat", "photos_skipat_long"))
    assert isinstance(demo, DenoisingRecipe)
    assert isinstance(long, DenoisingRecipe)
    assert long.model == demo.model
    assert long.data.uri == demo.data.uri
    patches = [r.schedule.epochs * r.data.patches_per_epoch for r in (demo, long)]
    assert patches[1] > 10 * patches[0]


@pytest.mark.parametrize("name", SIDD)
def test_sidd_recipe_takes_two_steps(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [
        f"data.uri=sidd:{write_sidd(tmp_path / 'sidd')}",
        "data.patch=32",
        *(setting for setting in SMALL if not setting.startswith(("data.image_size", "schedule"))),
        "run.batch=2",
        "model.args.embed_dim=8",
    ]
    out = tmp_path / "run"
    assert main([name, "--out", str(out), *(word for s in settings for word in ("--set", s))]) == 0
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()[:2]]
    assert all(math.isfinite(loss) for loss in losses)
    assert load_model(out)[1].task == "denoising"
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["checkpoint"] == str(out)


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_recipe_takes_two_steps(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the base models at full width take seconds per step on one core; depth and names are theirs
    narrow = ["model.args.embed_dim=96", "model.args.num_heads=3"] if not name.endswith("tiny") else []
    settings = [*SMALL, *narrow, *ALONE, f"data.uri=imagefolder:{folder}"]
    out = tmp_path / "run"
    assert main([name, "--out", str(out), *(word for s in settings for word in ("--set", s))]) == 0
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()[:2]]
    assert all(math.isfinite(loss) for loss in losses)
    model, checkpoint = load_model(out)
    assert checkpoint.architecture == f"{name}_patch16_224"
    assert len(model.blocks) == 12
    assert checkpoint.labels == ("ant", "bee")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["checkpoint"] == str(out)


def commands(name: str) -> list[list[str]]:
    """What a recipe's header tells to type, as words."""
    lines = (PACKAGED / f"{name}.toml").read_text().splitlines()
    return [shlex.split(line.removeprefix("#")) for line in lines if line.startswith("#     ")]


def test_fine_tuning_takes_what_the_header_converts(folder: Path, tmp_path: Path) -> None:
    """DeiT-S, narrow and untrained, stands for the one that is fetched."""
    convert, train, _ = commands("dgssa_glad_small")
    spec = convert[convert.index("--spec") + 1]
    recipe = read_recipe("dgssa_glad_small", train[train.index("--set") + 1 :: 2])
    assert recipe.model.weights == convert[convert.index("--out") + 1]
    assert recipe.distill.teacher == convert[1]
    assert recipe.distill.other_names
    assert recipe.schedule.epochs == 30
    assert str(create_model(recipe.model.name).spec) == spec  # type: ignore[arg-type]

    narrow = {"embed_dim": 96, "num_heads": 3, "num_classes": 2}
    deit = create_model(convert[1], **narrow)
    for path, name, args, model in (
        ("deit", convert[1], narrow, deit),
        (
            "converted",
            "converted_vit",
            {"base": convert[1], "spec": spec, **narrow},
            SkipVisionTransformer.from_vit(deit, spec),
        ),
    ):
        preprocessing = Preprocessing(height=224, width=224, crop_pct=0.9, interpolation="bicubic")
        labels = ("tench", "goldfish")
        description = Checkpoint(
            architecture=name,
            model_args=args,
            labels=labels,
            preprocessing=preprocessing,
            recipe={},
            epochs=0,
            versions={},
            commit="",
        )
        save_checkpoint(tmp_path / path, model.state_dict(), description)
    settings = [
        *(setting for setting in SMALL if "image_size" not in setting and "epochs" not in setting),
        "model.args.embed_dim=96",
        "model.args.num_heads=3",
        f"data.uri=imagefolder:{folder}",
        f"model.weights={tmp_path / 'converted'}",
        f"distill.teacher={tmp_path / 'deit'}",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["dgssa_glad_small", "--out", str(tmp_path / "run"), *words]) == 0


def test_training_from_scratch_as_the_header_says(folder: Path, tmp_path: Path) -> None:
    command = commands("dgssa_glad_small")[2]
    said = command[command.index("--set") + 1 :: 2]
    recipe = read_recipe("dgssa_glad_small", said)
    papers = read_recipe("vit_small")
    assert (recipe.schedule, recipe.optim) == (papers.schedule, papers.optim)
    assert recipe.augment == papers.augment
    narrow = ["model.args.embed_dim=96", "model.args.num_heads=3"]
    settings = [*said, *SMALL, *narrow, f"data.uri=imagefolder:{folder}"]
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["dgssa_glad_small", "--out", str(tmp_path / "run"), *words]) == 0
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["guide"] == 0.0
