"""Every preset as it would be deployed: ONNX Runtime gives PyTorch's logits, and TensorRT-RTX reads the graph.

Minutes of work: pytest tests/export/test_presets.py -m slow
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.deploy import DeployClassifier
from export.graph import to_graph
from export.parity import onnx_logits, torch_logits
from skipvit.models import create_model
from skipvit.models.timm_guard import timm
from skipvit.transforms import Preprocessing

PRESETS = [name for family in ("skipat", "dgssa", "glad") for name in timm.list_models(f"{family}_*")]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_exported_as_it_is(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model(name).eval()
    with torch.no_grad():
        for parameter in model.head.parameters():  # logits of a size that a trained model has
            parameter.normal_(std=0.3)
    side = model.patch_embed.img_size[0]
    preprocessing = Preprocessing(height=side, width=side)
    path = tmp_path / "model.onnx"
    onnx.save(to_graph(DeployClassifier(model, preprocessing), side, side), path)
    pictures = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    expected, found = torch_logits(model, preprocessing, pictures), onnx_logits(path, pictures)
    assert np.abs(expected).max() > 1
    assert np.abs(found - expected).max() <= 1e-4
    command = [sys.executable, str(Path(__file__).with_name("rtx_parser.py")), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["errors"] == []
    assert report["outputs"][0]["shape"] == [-1, model.num_classes]
