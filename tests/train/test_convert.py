"""skipvit-convert: a released file in, a checkpoint out that exports; and everything it refuses, leaving nothing."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from export.to_onnx import main as to_onnx
from skipvit.artifacts import read_entry
from skipvit.checkpoints import load_model, read_checkpoint
from skipvit.origin import resolve
from tests.skipvit.released_skipat import Weights, equations, released
from train import convert_official
from train.convert import main
from train.evaluate import main as evaluate

ROOT = Path(__file__).resolve().parents[2]
HEADS = ["--num-heads", "2"]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return released(dim=16, grid=4, patch=2, classes=3)


@pytest.fixture
def file(weights: Weights, tmp_path: Path) -> Path:
    """As it would come off the authors' trainer: a container, a wrapper's prefix, the options beside it."""
    wrapped = {f"module.{name}": value for name, value in weights.items()}
    path = tmp_path / "skipat.t7"
    torch.save({"model": wrapped, "args": argparse.Namespace(lr=1e-3), "epoch": 299}, path)
    return path


def test_the_checkpoint_computes_what_the_file_does(
    file: Path, weights: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "converted"
    assert main(["--from-official", str(file), "--out", str(out), *HEADS]) == 0
    table, last = (text := capsys.readouterr().out), json.loads(text.splitlines()[-1])
    for expected in ("param_1.*", "blocks.3.phi.*", "blocks.8.attn.*, blocks.8.norm1.*", "dropped: never run"):
        assert expected in table
    assert len(last["renamed"]) == 42
    assert len(last["dropped"]) == 36
    total = sum(value.numel() for value in weights.values())
    assert last["parameters"] + last["dropped_parameters"] == total
    assert sorted(p.name for p in out.iterdir()) == ["checkpoint.json", "model.safetensors"]
    model, description = load_model(out)
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (model(images) - equations(weights, images, heads=2)).abs().max() <= 1e-5
    assert description.labels == ("class 0", "class 1", "class 2")
    assert "skipat.t7 under 'model', sha256 " in description.recipe["converted_from"]
    pre = description.preprocessing
    assert (pre.height, pre.crop_pct, pre.interpolation, pre.mean[0], pre.std[0]) == (8, 0.9, "bicubic", 0.485, 0.229)
    assert resolve(str(out), None, False, {}).weights_from.startswith("checkpoint converted, converted from skipat.t7")
    capsys.readouterr()
    assert evaluate([str(out)]) == 1
    assert "does not say what it was trained on; give --data" in capsys.readouterr().err


@pytest.mark.slow
def test_the_checkpoint_exports(file: Path, tmp_path: Path) -> None:
    assert main(["--from-official", str(file), "--out", str(tmp_path / "converted"), *HEADS]) == 0
    assert to_onnx([str(tmp_path / "converted"), "--out", str(tmp_path / "models")]) == 0
    manifest = read_entry(tmp_path / "models", "converted").manifest
    assert manifest.weights_from.startswith("checkpoint converted, converted from skipat.t7 under 'model', sha256 ")
    assert manifest.parity[0].max_abs <= 1e-4


def test_labels_are_imagenet_s_or_the_user_s(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(released(16, 4, 2, 1000), tmp_path / "large.t7")
    assert main(["--from-official", str(tmp_path / "large.t7"), "--out", str(tmp_path / "large"), *HEADS]) == 0
    labels = read_checkpoint(tmp_path / "large").labels
    assert (len(labels), labels[0]) == (1000, "tench, Tinca tinca")
    (tmp_path / "labels.txt").write_text("rose\ntulip\nelder\n")
    options = ["--from-official", str(file), *HEADS, "--labels", str(tmp_path / "labels.txt")]
    assert main([*options, "--out", str(tmp_path / "flowers")]) == 0
    assert read_checkpoint(tmp_path / "flowers").labels == ("rose", "tulip", "elder")
    capsys.readouterr()


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


def test_what_is_refused_leaves_nothing(
    file: Path, weights: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, marker = tmp_path / "out", tmp_path / "ran"
    (tmp_path / "two.txt").write_text("a\nb\n")
    torch.save({"model": weights, "args": Evil(marker)}, tmp_path / "evil.t7")
    torch.save({"model": {**weights, "wing": torch.ones(1)}}, tmp_path / "wing.t7")
    torch.save({"model": {**weights, "norm.bias": torch.full((16,), float("nan"))}}, tmp_path / "nan.t7")
    torch.save({"model": {**weights, "norm.bias": "x"}}, tmp_path / "text.t7")
    torch.save({"epoch": 3}, tmp_path / "empty.t7")
    cases = [
        (["evil.t7", *HEADS], "cannot be read safely as weights (it asks for posix.system)"),
        (["wing.t7", *HEADS], "is not a released SkipAt model; unknown: wing"),
        (["nan.t7", *HEADS], "16 of the 16 values of norm.bias are NaN or infinite"),
        (["text.t7", *HEADS], "norm.bias is a str, not a tensor"),
        (["empty.t7", *HEADS], "epoch is a int, not a tensor"),
        (["gone.t7", *HEADS], "gone.t7 is not there"),
        (["skipat.t7"], "give the number of heads with --num-heads"),
        (["skipat.t7", "--num-heads", "3"], "cannot be shared among 3 heads"),
        (["skipat.t7", *HEADS, "--labels", str(tmp_path / "two.txt")], "has 3 classes, but 2 labels were given"),
        (["skipat.t7", *HEADS, "--labels", str(tmp_path / "no.txt")], "no.txt cannot be read as UTF-8 text"),
    ]
    before = sorted(tmp_path.iterdir())
    for (name, *options), message in cases:
        assert main(["--from-official", str(tmp_path / name), "--out", str(out), *options]) == 1, name
        error = capsys.readouterr().err
        assert "skipvit-convert: " in error
        assert message in error
        assert "Traceback" not in error
    assert sorted(tmp_path.iterdir()) == before
    assert not marker.exists()


def test_nothing_is_overwritten_and_nothing_is_left_half_done(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    assert main(["--from-official", str(file), "--out", str(taken), *HEADS]) == 1
    assert "exists; give another --out" in capsys.readouterr().err

    def interrupted(folder: Path, *_: object) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(convert_official, "save_checkpoint", interrupted)
    assert main(["--from-official", str(file), "--out", str(tmp_path / "runs" / "x"), *HEADS]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["skipat.t7", "taken"]


def test_help_needs_the_base_install_only() -> None:
    """As a script, from another folder, with every heavy package hidden."""
    code = """
import runpy, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in "torch timm torchvision safetensors".split():
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Hidden())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    command = [sys.executable, "-c", code, str(ROOT / "train" / "convert.py")]
    done = subprocess.run([*command, "--help"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "skipvit-convert --from-official skipat-tiny.t7" in done.stdout
    done = subprocess.run([*command, "--from-official", "x", "--out", "/no/y"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'skipvit[train]'" in done.stderr
