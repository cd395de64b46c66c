"""A video denoiser from checkpoint to repository entry, by the program."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from export.to_onnx import main
from skipvit.artifacts import Entry, read_entry
from skipvit.checkpoints import Checkpoint, CleanSamples, load_model, save_checkpoint
from skipvit.manifest import Tiling
from skipvit.models import create_model

SMALL: dict[str, Any] = {"frames": 3, "patch": 2, "dims": [8, 8], "depths": [1, 1], "num_heads": [2, 2], "window": 2}
CLIPS = np.random.default_rng(0).integers(0, 256, (2, 2, 20, 28, 3), dtype=np.uint8)  # shorter than the model's


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = create_model("skipat_video_denoiser_micro", **SMALL)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("runs") / "pans"
    description = Checkpoint(
        task="video-denoising",
        architecture="skipat_video_denoiser_micro",
        model_args=SMALL,
        recipe={},
        epochs=1,
        versions={},
        commit="abc",
    )
    save_checkpoint(folder, model.state_dict(), description, CleanSamples(CLIPS, ("a", "b")))
    return folder


@pytest.fixture(scope="module")
def entry(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Entry:
    root = tmp_path_factory.mktemp("models")
    assert main([str(checkpoint), "--out", str(root), "--tile", "16", "--halo", "2"]) == 0
    return read_entry(root, "pans")


def test_manifest_says_what_was_written(entry: Entry) -> None:
    manifest = entry.manifest
    assert manifest.task == "video-denoising"
    assert manifest.tiling == Tiling(tile=16, halo=2, multiple=8, frames=3, lead=1, lag=1)
    assert [(t.name, t.dtype, t.shape) for t in (*manifest.inputs, *manifest.outputs)] == [
        ("clips", "uint8", ("batch", 3, "height", "width", 4)),
        ("denoised", "uint8", ("batch", 3, "height", "width", 3)),
        ("restored", "float32", ("batch", 3, "height", "width", 3)),
    ]
    assert manifest.parity[0].psnr_db is not None
    assert manifest.parity[0].psnr_db > 100
    assert manifest.samples == ()
    assert manifest.macs > 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 8, 40), (3, 24, 16)])
def test_the_graph_is_the_model_at_the_sigma_of_its_map(entry: Entry, checkpoint: Path, shape: Any) -> None:
    batch, height, width = shape
    frames = np.random.default_rng(1).integers(0, 256, (batch, 3, height, width, 3), dtype=np.uint8)
    sigmas = np.arange(10, 10 + batch, dtype=np.uint8)
    noise_map = np.broadcast_to(sigmas[:, None, None, None, None], (batch, 3, height, width, 1))
    session = onnxruntime.InferenceSession(entry.model_path(), providers=["CPUExecutionProvider"])
    clips = np.concatenate([frames, noise_map], axis=-1)
    denoised, restored = session.run(["denoised", "restored"], {"clips": clips})
    model, _ = load_model(checkpoint)
    with torch.inference_mode():
        images = torch.from_numpy(frames).permute(0, 1, 4, 2, 3).double() / 255
        expected = 255 * model.double()(images, torch.from_numpy(sigmas).double()).permute(0, 1, 3, 4, 2).numpy()
    np.testing.assert_allclose(restored, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(denoised, np.clip(np.rint(restored), 0, 255).astype(np.uint8))
