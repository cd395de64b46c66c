"""``--precision int8`` from the command line to a served version: its pictures, its gate, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from export import parity, pictures
from export.engine_graph import GraphError, read_graph
from export.parity import onnx_logits, torch_logits
from export.pictures import pictures_for_int8
from export.to_onnx import main
from serve.engines.choice import open_engine
from serve.settings import Settings
from skipvit.artifacts import read_entry
from skipvit.checkpoints import Checkpoint, load_model, save_checkpoint
from skipvit.models import create_model
from skipvit.origin import Samples
from skipvit.picture_files import OriginError
from skipvit.transforms import Preprocessing

PREPROCESSING = Preprocessing(height=8, width=8, resize="squash")
PIXELS = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_classes": 4, "depth": 2}
    model = create_model("vit_micro_patch2_8", **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    description = Checkpoint(
        architecture="vit_micro_patch2_8", model_args=options, labels=("a", "b", "c", "d"),
        preprocessing=PREPROCESSING, recipe={}, epochs=1, versions={}, commit="abc",
    )  # fmt: skip
    save_checkpoint(folder, model.state_dict(), description, (PIXELS, np.zeros(80, dtype=np.int64)))
    return folder


def folder_of(images: Any, place: Path) -> Path:
    place.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(place / f"{number:03}.png")
    return place


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    options = ["--name", "shapes_int8", "--precision", "int8", "--min-agreement", "0.8"]
    assert main([str(checkpoint), "--out", str(root), *options]) == 0
    return root


def test_the_entry_says_what_it_is_and_is_served(exported: Path) -> None:
    entry = read_entry(exported, "shapes_int8")
    assert entry.manifest.models == {"int8": "model.int8.onnx"}
    [figures] = entry.manifest.parity
    assert (figures.precision, figures.images, figures.tolerance) == ("int8", 40, "top-1 agreement >= 80 %")
    source = "80 evaluation pictures of the checkpoint's set"
    assert figures.images_from == f"half of {source}; 40 of the other half for calibration"
    assert figures.top1_agreement is not None
    assert figures.top1_agreement >= 0.8
    assert figures.max_abs > 1e-4
    assert 'default_model_filename: "model.int8.onnx"' in (exported / "shapes_int8" / "config.pbtxt").read_text()
    engine, info = open_engine(entry, Settings())
    assert (info.kind, info.precision) == ("onnx-cpu", "int8")
    logits = onnx_logits(entry.model_path(), PIXELS[:4])
    probabilities = torch.from_numpy(logits).softmax(-1).numpy()
    np.testing.assert_allclose(engine.run(PIXELS[:4]), probabilities, atol=1e-5)


def test_one_class_in_forty_that_int8_changes_is_too_much(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, description = load_model(checkpoint)
    expected = torch_logits(model, description.classifier_preprocessing, PIXELS[::2])
    expected[7] = np.roll(expected[7], 1)
    monkeypatch.setattr(parity, "onnx_logits", lambda _path, _images: expected)
    assert main([str(checkpoint), "--out", str(tmp_path / "models"), "--precision", "int8"]) == 1
    error = capsys.readouterr().err
    assert "top-1 agreement 97.50% on 40 pictures; needed: top-1 agreement >= 99 %. Nothing was written." in error
    assert "Calibrate on more pictures" in error
    assert list((tmp_path / "models").rglob("*")) == []


def test_what_int8_cannot_be_made_of_is_said(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = str(folder_of(255 - PIXELS[:20], tmp_path / "few"))
    many = str(folder_of(PIXELS, tmp_path / "many"))
    int8 = ["--precision", "int8"]
    cases = [
        (["vit_micro_patch2_8", *int8], "32 at least and better 100, and there are none; give a folder"),
        (
            ["vit_micro_patch2_8", *int8, "--images", few],
            "and there are 10 besides those to compare on; give a folder of more with --calibration",
        ),
        ([str(checkpoint), *int8, "--calibration", few], "and there are 20"),
        (["vit_micro_patch2_8", *int8, "--images", few, "--calibration", many], "and there are 20 to compare on"),
        ([str(checkpoint), *int8, "--calibration", str(tmp_path / "gone")], "gone cannot be read"),
        (["uformer_micro", *int8], "is a model for denoising, and int8 is for classifiers"),
        ([str(checkpoint), "--calibration", few], "--calibration means nothing without int8"),
        ([str(checkpoint), "--min-agreement", "0"], "--min-agreement means nothing without int8"),
        (["uformer_micro", "--full-range"], "--full-range means nothing to uformer_micro"),
    ]
    for arguments, message in cases:
        assert main([*arguments, "--out", str(tmp_path / "models")]) == 1, arguments
        assert message in capsys.readouterr().err, arguments
    assert not (tmp_path / "models").exists() or list((tmp_path / "models").rglob("*")) == []


@pytest.mark.parametrize("share", ["99", "-0.1", "nan", "most"])
def test_an_agreement_is_a_share(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["x", "--min-agreement", share])
    assert "needs a share from 0 to 1" in capsys.readouterr().err


def test_pictures_to_compare_on_are_not_those_to_calibrate_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Samples(PIXELS, np.zeros(80, dtype=np.int64), "samples")
    calibrating, compared = pictures_for_int8(PREPROCESSING, samples, None, None)
    np.testing.assert_array_equal(calibrating, PIXELS[1::2])
    np.testing.assert_array_equal(compared.images, PIXELS[::2])
    others = 255 - PIXELS[::-1]
    own = folder_of(others, tmp_path / "own")
    calibrating, compared = pictures_for_int8(PREPROCESSING, samples, None, own)
    np.testing.assert_array_equal(calibrating, others)
    np.testing.assert_array_equal(compared.images, PIXELS)
    assert compared.source == "samples; 80 of 80 pictures of own for calibration"
    for folder, calibration in ((own, own / ".." / "own"), (None, own), (own, None)):
        calibrating, compared = pictures_for_int8(PREPROCESSING, None, folder, calibration)
        np.testing.assert_array_equal(calibrating, others[1::2])
        np.testing.assert_array_equal(compared.images, others[::2])
    monkeypatch.setattr(pictures, "_MAX_PICTURES", 60)
    monkeypatch.setattr(pictures, "_MAX_CALIBRATION", 33)
    other = folder_of(PIXELS, tmp_path / "other")
    calibrating, compared = pictures_for_int8(PREPROCESSING, None, own, other)
    assert (len(calibrating), len(compared.images)) == (33, 60)
    np.testing.assert_array_equal(calibrating[[0, -1]], PIXELS[[0, 79]])
    np.testing.assert_array_equal(compared.images[[0, -1]], others[[0, 79]])
    with pytest.raises(OriginError, match="holds no picture"):
        pictures_for_int8(PREPROCESSING, samples, None, folder_of([], tmp_path / "empty"))


def test_a_picture_to_compare_on_is_nowhere_in_those_to_calibrate_on(tmp_path: Path) -> None:
    """Folders are gone through with those in them, and one may hold copies of another's pictures."""
    everything = folder_of(PIXELS, tmp_path / "everything")
    within = folder_of(255 - PIXELS[:40], everything / "within")
    calibrating, compared = pictures_for_int8(PREPROCESSING, None, within, everything)
    np.testing.assert_array_equal(calibrating, PIXELS)
    np.testing.assert_array_equal(compared.images, 255 - PIXELS[:40])
    samples = Samples(PIXELS[:40], np.zeros(40, dtype=np.int64), "samples")
    calibrating, _ = pictures_for_int8(PREPROCESSING, samples, None, folder_of(PIXELS, tmp_path / "copies"))
    np.testing.assert_array_equal(calibrating, PIXELS[40:])
    with pytest.raises(OriginError, match="and there are 0 besides those to compare on; give a folder of more"):
        pictures_for_int8(PREPROCESSING, None, everything, within)


def test_tensorrt_is_not_given_what_it_does_not_take(exported: Path) -> None:
    path = read_entry(exported, "shapes_int8").model_path()
    with pytest.raises(GraphError, match=r"quantised for CPUs.*build from the model's fp16 or fp32 file"):
        read_graph(path)


def test_help_tells_how_a_variant_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "--name mine_int8 --precision int8 --calibration photos" in out
    assert "fp32[,fp16][,int8]" in out
