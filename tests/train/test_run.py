"""skipvit-train from the outside: exit status, messages, files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skipvit.checkpoints import load_model, read_checkpoint, read_samples
from train.digits import digits
from train.recipe import PACKAGED, read_recipe
from train.run import main

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_leaves_a_checkpoint(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main([str(tiny), "--out", str(out), "--set", "run.seed=3"]) == 0
    checkpoint = read_checkpoint(out)
    assert checkpoint.architecture == "skipat_micro_patch2_8"
    assert checkpoint.model_args["num_classes"] == 10
    assert checkpoint.labels == tuple("0123456789")
    assert checkpoint.epochs == 0
    assert checkpoint.evaluation is not None
    assert checkpoint.evaluation.images == 360
    assert checkpoint.recipe == json.loads((out / "recipe.json").read_text())
    assert checkpoint.recipe["run"]["seed"] == 3
    assert {"python", "torch", "timm", "skipvit"} <= checkpoint.versions.keys()
    printed = capsys.readouterr().out.splitlines()
    assert json.loads(printed[-1])["top1"] == checkpoint.evaluation.metrics["top1"]
    assert any("held out" in line for line in printed)


def test_samples_are_the_held_out_pictures(tiny: Path, tmp_path: Path) -> None:
    assert main([str(tiny), "--out", str(tmp_path / "run"), "--set", "run.steps=1"]) == 0
    samples = read_samples(tmp_path / "run")
    assert samples is not None
    held_out = digits().held_out
    assert (samples[0] == held_out.pixels).all()  # type: ignore[attr-defined]
    assert (samples[1] == held_out.labels).all()


def test_the_checkpoint_predicts_what_was_evaluated(tiny: Path, tmp_path: Path) -> None:
    import torch

    out = tmp_path / "run"
    assert main([str(tiny), "--out", str(out)]) == 0
    model, checkpoint = load_model(out)
    pixels, labels = read_samples(out) or pytest.fail("no samples")
    mean, std = (np.array(getattr(checkpoint.preprocessing, name), dtype=np.float32) for name in ("mean", "std"))
    images = torch.from_numpy(((pixels / np.float32(255)) - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        top1 = float(np.mean(model(images).argmax(dim=1).numpy() == labels))
    assert checkpoint.evaluation is not None
    assert top1 == pytest.approx(checkpoint.evaluation.metrics["top1"], abs=1 / 360 + 1e-9)


def test_large_sets_give_a_few_samples(tiny: Path, folder: Path, tmp_path: Path) -> None:
    settings = [
        "data.image_size=80",
        f"data.uri=imagefolder:{folder}",
        "run.batch=4",
        "run.steps=1",
        "augment.kind=none",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    assert main([str(tiny), "--out", str(tmp_path / "run"), *words]) == 0
    samples = read_samples(tmp_path / "run")
    assert samples is not None
    assert samples[0].shape == (4, 80, 80, 3)
    assert samples[1].tolist() == [0, 0, 1, 1]


def test_a_folder_is_not_used_twice(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(tiny), "--out", str(tmp_path / "run"), "--set", "run.steps=1"]
    assert main(command) == 0
    assert main(command) == 1
    assert "run holds a run already; go on with --resume" in capsys.readouterr().err


def test_a_strangers_folder_is_left_alone(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert main([str(tiny), "--out", str(tmp_path / "mine")]) == 1
    assert "mine exists and is not a run of skipvit-train" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_resuming_another_recipe_is_refused(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(tiny), "--out", str(tmp_path / "run"), "--resume"]
    assert main([*command, "--set", "run.steps=1"]) == 0
    assert main([*command, "--set", "optim.lr=0.5", "--set", "run.seed=9", "--set", "run.log_every=3"]) == 1
    error = capsys.readouterr().err
    assert "optim.lr: 0.5, was 0.002" in error
    assert "run.seed: 9, was 0" in error
    assert "log_every" not in error, "how a run is carried out may change"
    assert read_recipe(tmp_path / "run" / "recipe.json").optim.lr == 0.002


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.toml"], "no recipe nowhere.toml"),
        (["digits_vit", "--set", "optim.lrr=3"], "did you mean optim.lr?"),
        (["digits_vit", "--set", "data.uri=imagefolder:/nowhere"], "imagefolder:/nowhere: there is no such folder"),
        (["digits_vit", "--set", "run.batch=5000"], "run.batch = 5000 is more than"),
        (["digits_vit", "--set", f"model.weights={'x' * 300}"], "no model is named 'xxx"),
        (["digits_vit", "--set", "run.strategy=ddp"], "start with torchrun"),
        (["digits_vit", "--set", "model.args={img_size=[8, 16]}"], "model.args has img_size = [8, 16]"),
        (["digits_vit", "--set", "model.name=vit_nano"], "no model is named 'vit_nano'"),
        (
            ["digits_vit", "--set", "augment.kind=imagenet", "--set", "augment.rand_augment=x-m9"],
            "not in timm's notation",
        ),
    ],
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("skipvit-train: ")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def python(*arguments: str, cwd: Path, block: str = "") -> subprocess.CompletedProcess[str]:
    """Runs Python without this checkout on its path; ``block`` names a package that cannot be imported."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if block:
        site = cwd / "blocked"
        site.mkdir()
        (site / f"{block}.py").write_text(f"raise ModuleNotFoundError('no {block}', name='{block}')")
        environment["PYTHONPATH"] = str(site)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("program", ["run.py", "evaluate.py"])
def test_help_needs_no_torch(tmp_path: Path, program: str) -> None:
    done = python(str(ROOT / "train" / program), "--help", cwd=tmp_path, block="torch")
    assert done.returncode == 0, done.stderr
    assert "usage: skipvit-" in done.stdout


def test_missing_torch_is_told(tiny: Path, tmp_path: Path) -> None:
    done = python(str(ROOT / "train" / "run.py"), str(tiny), "--out", "run", cwd=tmp_path, block="torch")
    assert done.returncode == 1
    assert done.stderr == "skipvit-train: training needs torch; run: pip install 'skipvit[train]'\n"


def test_help_lists_the_packaged_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out.rpartition("packaged recipes: ")[2]
    assert listed.strip().split(", ") == sorted(path.stem for path in PACKAGED.glob("*.toml"))
