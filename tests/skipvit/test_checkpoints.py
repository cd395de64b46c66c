"""Checkpoints: round trip, and a plain message for each way in which one can be unusable."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from skipvit.checkpoints import Checkpoint, CheckpointError, load_model, read_checkpoint, read_samples, save_checkpoint
from skipvit.models import create_model
from skipvit.transforms import Preprocessing

IMAGES = np.zeros((2, 8, 8, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("skipat_micro_patch2_8", num_classes=2)
    description = Checkpoint(
        architecture="skipat_micro_patch2_8",
        model_args={"num_classes": 2},
        labels=("a", "b"),
        preprocessing=Preprocessing(height=8, width=8),
        recipe={},
        epochs=1,
        versions={},
        commit="abc",
    )
    save_checkpoint(tmp_path / "run", model.state_dict(), description, (IMAGES, np.array([0, 1])))
    return tmp_path / "run"


def test_round_trip(folder: Path) -> None:
    model, description = load_model(folder)
    torch.manual_seed(0)
    expected = create_model("skipat_micro_patch2_8", num_classes=2).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert description.labels == ("a", "b")
    samples = read_samples(folder)
    assert samples is not None
    assert samples[0].shape == (2, 8, 8, 3)
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint.json", "model.safetensors", "samples.npz"]


def test_a_checkpoint_without_samples(folder: Path) -> None:
    (folder / "samples.npz").unlink()
    assert read_samples(folder) is None


def test_weights_that_diverged_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["blocks.2.phi.fc1.bias"][3] = float("nan")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 of the 128 values of blocks\.2\.phi\.fc1\.bias are NaN or infinite"):
        load_model(folder)


def test_damage_is_named(folder: Path) -> None:
    description = (folder / "checkpoint.json").read_text()
    (folder / "samples.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(CheckpointError, match=r"samples\.npz cannot be read"):
        read_samples(folder)
    np.savez(folder / "samples.npz", images=IMAGES.astype(np.float32), labels=np.array([0, 1]))
    with pytest.raises(CheckpointError, match=r"holds images float32 \(2, 8, 8, 3\)"):
        read_samples(folder)
    other = create_model("skipat_micro_patch2_8", num_classes=3)
    save_file(other.state_dict(), folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"head\.weight is float32 \(3, 64\) and should be .*, copy both from one run"
    ):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not there"):
        load_model(folder)
    for text, match in [
        ("{", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        (json.dumps({**json.loads(description), "schema_version": 9}), "schema 9, this skipvit reads up to 1"),
        (json.dumps({**json.loads(description), "wings": 9}), "wings: Extra inputs"),
    ]:
        (folder / "checkpoint.json").write_text(text)
        with pytest.raises(CheckpointError, match=match):
            read_checkpoint(folder)
    for model_args, match in [
        ({"wings": 2}, "describes a model that cannot be built"),
        ({"pretrained": True}, "asks for weights from elsewhere"),
        ({"checkpoint_path": "evil.pth"}, "checkpoint_path would load weights from elsewhere"),
        ({"pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/x.pth"}}, "pretrained_cfg_overlay would load"),
    ]:
        (folder / "checkpoint.json").write_text(json.dumps({**json.loads(description), "model_args": model_args}))
        with pytest.raises(CheckpointError, match=match):
            load_model(folder)
    (folder / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError, match="is not a checkpoint: no readable"):
        read_checkpoint(folder)
