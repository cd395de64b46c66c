"""Checkpoints: round trip, and a plain message for each way in which one can be unusable."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from skipvit.checkpoints import (
    Checkpoint,
    CheckpointError,
    CleanSamples,
    load_model,
    read_checkpoint,
    read_clean_samples,
    read_samples,
    save_checkpoint,
)
from skipvit.models import create_model
from skipvit.transforms import Preprocessing
from tests.no_room import no_room

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


def test_clean_pictures_and_their_names(folder: Path) -> None:
    """What a denoiser's checkpoint brings, still pictures and clips alike."""
    weights, description = {"w": torch.zeros(1)}, read_checkpoint(folder)
    for shape in ((2, 8, 8, 3), (2, 3, 8, 8, 3)):
        pictures = CleanSamples(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8), ("cat", "Häuser"))
        save_checkpoint(folder, weights, description, pictures)
        found = read_clean_samples(folder)
        assert found is not None
        assert found.names == ("cat", "Häuser")
        np.testing.assert_array_equal(found.images, pictures.images)
    np.savez(folder / "samples.npz", images=IMAGES, names=np.array(["cat"]))
    with pytest.raises(CheckpointError, match=r"names <U3 \(1,\); it needs uint8"):
        read_clean_samples(folder)
    np.savez(folder / "samples.npz", images=IMAGES, labels=np.array([0, 1]))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_clean_samples(folder)
    (folder / "samples.npz").unlink()
    assert read_clean_samples(folder) is None


def test_a_checkpoint_without_samples(folder: Path) -> None:
    (folder / "samples.npz").unlink()
    assert read_samples(folder) is None


def test_a_checkpoint_that_finds_no_room_is_none(folder: Path) -> None:
    description, weights = read_checkpoint(folder), {"w": torch.zeros(100_000)}
    before = sorted(path.name for path in folder.iterdir())
    with no_room(), pytest.raises(OSError, match=r"model\.safetensors cannot be written"):
        save_checkpoint(folder, weights, description)
    samples = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), dtype=np.uint8), np.zeros(40, np.int64)
    with no_room(), pytest.raises(OSError, match="too large"):
        save_checkpoint(folder, {"w": torch.zeros(1)}, description, samples)
    assert sorted(path.name for path in folder.iterdir()) == [name for name in before if name != "checkpoint.json"]


def test_weights_that_diverged_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["blocks.2.phi.fc1.bias"][3] = float("nan")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 of the 128 values of blocks\.2\.phi\.fc1\.bias are NaN or infinite"):
        load_model(folder)


def test_samples_that_grow_when_they_are_opened_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipvit.checkpoints._MAX_SAMPLES", 1 << 20)
    blank = np.zeros((2, 1024, 1024, 3), np.uint8)
    np.savez_compressed(folder / "samples.npz", images=blank, labels=np.array([0, 1]), names=np.array(["a", "b"]))
    assert (folder / "samples.npz").stat().st_size < 1 << 14
    for read in (read_samples, read_clean_samples):
        with pytest.raises(CheckpointError, match=r"samples\.npz holds 6 MiB, at most 1 are read"):
            read(folder)


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


CONVERTED = {"base": "vit_tiny_patch16_224", "img_size": 32, "depth": 2, "num_classes": 2, "spec": "static:0"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": 5}, "cannot be built: a spec is a text"),
        ({"spec": "static:" + "0-9999," * 100_000}, "cannot be built: a spec is a text"),
        ({"base": 5}, "cannot be built"),
        ({"base": "hf-hub:someone/model"}, "no model is named 'hf-hub:someone/model'"),
        ({"base": "converted_vit"}, "cannot be built: converted_vit needs base"),
        ({"num_heads": 0}, "cannot be built"),
        ({"patch_size": 0}, "cannot be built"),
        ({"spec": "skip:1", "phi_expansion": 1e308}, "more than 1048576"),
        ({"depth": 10**7}, "depth is 10000000, more than 1000"),
        ({"num_classes": 10**12}, "more than 1048576"),
        ({"block_fn": "os.system"}, "cannot be built"),
        ({"checkpoint_path": "evil.pth"}, "would load weights from elsewhere"),
    ],
)
def test_nonsense_in_a_description_is_a_plain_refusal(folder: Path, change: dict[str, Any], message: str) -> None:
    _describe(folder, {**CONVERTED, **change})
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"img_size": 100_000},  # position embeddings of 30 GB
        {"img_size": 20_000},  # a static matrix of 29 TB
        {"embed_dim": 300_000},
        {"static_form": "factorised", "static_rank": 10**6},
        {"spec": "skip:1", "phi_expansion": 1e6, "depth": 3},
        {"spec": "skip:1", "phi_kernel_size": 99_999, "depth": 3},
    ],
)
def test_a_description_larger_than_its_weights_allocates_nothing(
    folder: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    create = create_model

    def noted(*args: Any, **kwargs: Any) -> torch.nn.Module:
        model = create(*args, **kwargs)
        made.extend(parameter.device.type for parameter in model.parameters())
        return model

    monkeypatch.setattr("skipvit.checkpoints.create_model", noted)
    _describe(folder, {**CONVERTED, **change})
    with pytest.raises(CheckpointError, match="does not hold weights of this model"):
        load_model(folder)
    assert set(made) == {"meta"}


def test_a_description_that_no_parser_should_follow_is_refused(folder: Path) -> None:
    for text in ("[" * 200_000, '{"model_args": ' + "[" * 100_000 + "]" * 100_000 + "}"):
        (folder / "checkpoint.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"is not a JSON object|model_args"):
            load_model(folder)
    (folder / "checkpoint.json").write_bytes(b" " * (17 << 20))
    with pytest.raises(CheckpointError, match="more than 16 MiB"):
        load_model(folder)


def _describe(folder: Path, model_args: dict[str, Any]) -> None:
    path = folder / "checkpoint.json"
    description = {**json.loads(path.read_text()), "architecture": "converted_vit", "model_args": model_args}
    path.write_text(json.dumps(description))
