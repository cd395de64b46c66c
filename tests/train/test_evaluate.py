"""skipvit-evaluate: its report, its pictures, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skipvit.checkpoints import read_checkpoint
from train.evaluate import main
from train.run import main as train


@pytest.fixture
def checkpoint(tiny: Path, tmp_path: Path) -> Path:
    assert train([str(tiny), "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def test_report_and_pictures_are_written(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(checkpoint)]) == 0
    out = checkpoint / "evaluation"
    assert sorted(path.name for path in out.iterdir()) == ["confusion.png", "evaluation.json", "reliability.png"]
    report = json.loads((out / "evaluation.json").read_text())
    trained = read_checkpoint(checkpoint).evaluation
    assert trained is not None
    assert report["metrics"] == pytest.approx(trained.metrics, abs=1e-6)
    assert report["dataset"] == trained.dataset
    assert [row["label"] for row in report["per_class"]] == list("0123456789")
    assert sum(row["support"] for row in report["per_class"]) == 360
    right = sum(row["support"] * row["accuracy"] for row in report["per_class"])
    assert right / 360 == pytest.approx(report["metrics"]["top1"])
    counts = [row["count"] for row in report["top_confusions"]]
    assert counts == sorted(counts, reverse=True)
    assert all(row["true"] != row["predicted"] for row in report["top_confusions"])
    printed = capsys.readouterr().out.splitlines()
    assert json.loads(printed[-1])["top1"] == report["metrics"]["top1"]
    for name in ("confusion.png", "reliability.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 500
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20, "an empty chart has few shades"


def test_other_data_and_folder(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main([str(checkpoint), "--data", "builtin:drawn-digits", "--out", str(tmp_path / "drawn"), "--batch", "100"])
        == 0
    )
    report = json.loads((tmp_path / "drawn" / "evaluation.json").read_text())
    assert report["images"] == 600
    assert report["dataset"].startswith("synthetic")
    assert not (checkpoint / "evaluation").exists()


def test_absent_classes_have_no_accuracy(
    tiny: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"data.uri=imagefolder:{folder}", "run.batch=4", "run.steps=1", "augment.kind=none"]
    out = tmp_path / "run"
    assert train([str(tiny), "--out", str(out), *(word for s in settings for word in ("--set", s))]) == 0
    for picture in (folder / "val" / "bee").iterdir():
        picture.unlink()
    assert main([str(out)]) == 0
    report = json.loads((out / "evaluation" / "evaluation.json").read_text())
    assert report["per_class"][1] == {"label": "bee", "support": 0, "accuracy": None}
    assert "bee" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "checkpoint.json").unlink(), "is not a checkpoint: no readable checkpoint.json"),
        (lambda run: (run / "model.safetensors").unlink(), "model.safetensors is not there"),
        (lambda run: (run / "model.safetensors").write_bytes(b"x" * 50), "model.safetensors cannot be read"),
        (lambda run: (run / "checkpoint.json").write_text("{"), "is not a JSON object"),
    ],
)
def test_unusable_checkpoint_is_named(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], message: str
) -> None:
    spoil(checkpoint)
    assert main([str(checkpoint)]) == 1
    assert message in capsys.readouterr().err
    assert not (checkpoint / "evaluation").exists()


def test_data_with_other_classes_is_refused(checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(checkpoint), "--data", f"imagefolder:{folder}"]) == 1
    assert "has 2 classes (ant, bee ...)" in capsys.readouterr().err
    assert not (checkpoint / "evaluation").exists()


def test_damaged_picture_is_named(tiny: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"data.uri=imagefolder:{folder}", "run.batch=4", "run.steps=1", "augment.kind=none"]
    out = tmp_path / "run"
    assert train([str(tiny), "--out", str(out), *(word for s in settings for word in ("--set", s))]) == 0
    (folder / "val" / "ant" / "1.jpg").write_bytes(b"nothing")
    for workers in ("0", "1"):
        assert main([str(out), "--workers", workers]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"skipvit-evaluate: {folder / 'val' / 'ant' / '1.jpg'} is not a readable picture")
        assert len(error.splitlines()) == 1
