"""Our graphs through TensorRT-RTX's ONNX parser and builder, which run without a GPU. No engine is run."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export import ops
from export.denoising import denoiser_graph
from export.deploy import DeployClassifier
from export.deploy_denoiser import DeployDenoiser
from export.graph import to_graph
from export.ops.domain import DOMAIN, PLUGIN_ATTRIBUTES, VERSION
from skipvit.models import create_model
from skipvit.transforms import Preprocessing
from trt_plugins.operators import ALL

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX: pip install 'skipvit[trt-rtx]'"
)
ROOT = Path(__file__).resolve().parents[2]
Shape = tuple[int, ...]


def through_tensorrt(
    graph: onnx.ModelProto, folder: Path, multiple: int = 1, *, plugins: bool = False
) -> dict[str, Any]:
    """What rtx_parser.py reports, in a process of its own, and its stderr; sizes are multiples of ``multiple``."""
    path = folder / "model.onnx"
    onnx.save(graph, path)
    parser = str(Path(__file__).with_name("rtx_parser.py"))
    command = [sys.executable, parser, str(path), f"--multiple={multiple}", *(["--plugins"] if plugins else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report | {"stderr": done.stderr}


def builds_with_plugins(graph: onnx.ModelProto, plain: dict[str, Any], folder: Path, multiple: int = 1) -> None:
    """Every node of ours becomes a plugin, and what goes in and comes out stays as it is without them."""
    report = through_tensorrt(graph, folder, multiple, plugins=True)
    assert report["errors"] == []
    named = {op.name for op in ALL}
    ours = sum(node.domain == DOMAIN and node.op_type in named for node in graph.graph.node)
    assert (plain["layers"].get("PLUGIN_V3", 0), report["layers"].get("PLUGIN_V3", 0)) == (0, ours)
    assert (report["inputs"], report["outputs"]) == (plain["inputs"], plain["outputs"])
    assert report["plan_bytes"] > 0


def alone(body: onnx.FunctionProto, dtype: int, shapes: dict[str, Shape], ints: dict[str, int]) -> onnx.ModelProto:
    """One node of ours with its body. What has a dynamic axis, shown by -1, is an input, the rest are initializers."""
    node = onnx.helper.make_node(body.name, list(shapes), ["y"], domain=DOMAIN, **ints, **PLUGIN_ATTRIBUTES)
    constants = [
        onnx.numpy_helper.from_array(np.ones(shape, onnx.helper.tensor_dtype_to_np_dtype(dtype)), name)
        for name, shape in shapes.items()
        if shape[0] != -1
    ]
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, dtype, [f"{name}_{i}" if size == -1 else size for i, size in enumerate(shape)]
        )
        for name, shape in shapes.items()
        if shape[0] == -1
    ]
    rank = len(next(iter(shapes.values())))  # of the output as of the first input
    output = onnx.helper.make_tensor_value_info("y", dtype, [f"axis_{i}" for i in range(rank)])
    opset = next(imported.version for imported in body.opset_import)
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "alone", inputs, [output], constants),
        functions=[body],
        opset_imports=[onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model


# op, shapes of what goes in, attributes, shape of what comes out, and the layer that does the work in TensorRT
Case = tuple[Any, dict[str, Shape], dict[str, int], Shape, str]
X = (-1, 12, 8)
CASES: dict[str, Case] = {
    "dwconv": (
        ops.token_dwconv_gelu,
        {"x": (-1, 3, 4, 8), "weight": (8, 1, 5, 5), "bias": (8,)},
        {"channels": 8},
        (-1, 3, 4, 8),
        "CONVOLUTION",
    ),
    "dwconv, any grid": (
        ops.token_dwconv_gelu,
        {"x": (-1, -1, -1, 8), "weight": (8, 1, 3, 3), "bias": (8,)},
        {"channels": 8},
        (-1, -1, -1, 8),
        "CONVOLUTION",
    ),
    "eca": (ops.eca_gate, {"x": X, "weight": (1, 1, 3)}, {}, (-1, 1, 8), "CONVOLUTION"),
    "static": (
        ops.static_attention,
        {"v": X, "matrix": (2, 12, 12)},
        {"num_heads": 2},
        (-1, 12, 8),
        "MATRIX_MULTIPLY",
    ),
    "static, one row": (
        ops.static_attention,
        {"v": X, "matrix": (2, 1, 12)},
        {"num_heads": 2},
        (-1, 1, 8),
        "MATRIX_MULTIPLY",
    ),
    "reused": (
        ops.reused_attention,
        {"attention": (-1, 2, 12, 12), "v": X},
        {"num_heads": 2},
        (-1, 12, 8),
        "MATRIX_MULTIPLY",
    ),
    "pyramid": (ops.token_pyramid, {"x": X, "matrix": (4, 10)}, {"num_prefix": 2}, (-1, 6, 8), "MATRIX_MULTIPLY"),
    "pyramid, no prefix": (
        ops.token_pyramid,
        {"x": X, "matrix": (4, 12)},
        {"num_prefix": 0},
        (-1, 4, 8),
        "MATRIX_MULTIPLY",
    ),
    "pyramid, a matrix per image": (
        ops.token_pyramid,
        {"x": X, "matrix": (-1, 4, 10)},
        {"num_prefix": 2},
        (-1, 6, 8),
        "MATRIX_MULTIPLY",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("opset", "dtype", "name"),
    [
        (18, onnx.TensorProto.FLOAT16, "HALF"),
        (20, onnx.TensorProto.FLOAT, "FLOAT"),
        (20, onnx.TensorProto.BFLOAT16, "BF16"),
    ],
    ids=["18-fp16", "20-fp32", "20-bf16"],
)
def test_an_op_parses_and_builds(case: str, opset: int, dtype: int, name: str, tmp_path: Path) -> None:
    op, shapes, attributes, expected, layer = CASES[case]
    graph = alone(op.body(opset), dtype, shapes, attributes)
    report = through_tensorrt(graph, tmp_path)
    assert report["errors"] == []
    batched = {key: shape for key, shape in shapes.items() if shape[0] == -1}
    assert report["inputs"] == [{"name": key, "shape": list(batched[key]), "dtype": name} for key in batched]
    assert report["outputs"] == [{"name": "y", "shape": list(expected), "dtype": name}]
    assert layer in report["layers"]
    assert report["plan_bytes"] > 0
    builds_with_plugins(graph, report, tmp_path)


def test_without_its_body_a_node_is_looked_up_as_a_plugin(tmp_path: Path) -> None:
    """The parser does refuse what it cannot import, and what it looks for is our plugin."""
    op, shapes, attributes, *_ = CASES["static"]
    graph = alone(op.body(20), onnx.TensorProto.FLOAT, shapes, attributes)
    del graph.functions[:]
    (error,) = through_tensorrt(graph, tmp_path)["errors"]
    assert error["op"] == "StaticAttention"
    assert "Plugin not found" in error["text"]


# Small members of each family, by the arguments that make them small.
SMALL = {"img_size": (32, 48), "depth": 3, "embed_dim": 48, "num_heads": 3, "num_classes": 5}
MODELS: list[tuple[str, dict[str, Any], torch.dtype, int]] = [
    ("vit_tiny_patch16_224", {"global_pool": "avg", "reg_tokens": 4}, torch.float32, 20),
    ("skipat_tiny_patch16_224", {"spec": "skip:1"}, torch.float32, 20),
    ("dgssa_glad_tiny_patch16_224", {"spec": "static:0-2 tokens:1/2@1"}, torch.float32, 20),
    # all four ops, and a pyramid whose matrix is computed from the picture
    ("dgssa_glad_tiny_patch16_224", {"spec": "static:0 skip:1 tokens:1x3@1", "pyramid": "content"}, torch.float16, 18),
]


@pytest.mark.parametrize(("name", "arguments", "dtype", "opset"), MODELS)
def test_a_model_parses_and_builds(
    name: str, arguments: dict[str, Any], dtype: torch.dtype, opset: int, tmp_path: Path
) -> None:
    preprocessing = Preprocessing(height=32, width=48)
    deployed = DeployClassifier(create_model(name, **SMALL, **arguments), preprocessing, dtype)
    graph = to_graph(deployed, 32, 48, opset)
    report = through_tensorrt(graph, tmp_path)
    assert report["errors"] == []
    assert report["inputs"] == [{"name": "images", "shape": [-1, 32, 48, 3], "dtype": "UINT8"}]
    assert report["outputs"] == [
        {"name": "logits", "shape": [-1, 5], "dtype": "FLOAT"},
        {"name": "probabilities", "shape": [-1, 5], "dtype": "FLOAT"},
    ]
    assert report["plan_bytes"] > 0
    builds_with_plugins(graph, report, tmp_path)


DENOISERS: dict[str, tuple[str, dict[str, Any], str, Shape, torch.dtype, int]] = {
    "uformer": (
        "uformer_micro",
        {"embed_dim": 8, "depths": (2, 1, 2), "num_heads": (1, 8, 2), "window": 4, "skip": "odd"},
        "images",
        (),
        torch.float32,
        20,
    ),
    "uformer, half": (
        "skipat_uformer_micro",
        {"embed_dim": 8, "depths": (1, 1, 1), "num_heads": (1, 1, 1), "window": 4, "phi_proj": True},
        "images",
        (),
        torch.float16,
        18,
    ),
    "video": (
        "skipat_video_denoiser_micro",
        {"frames": 3, "dims": (8, 8), "depths": (1, 1), "num_heads": (2, 2), "window": 2},
        "clips",
        (3,),
        torch.float32,
        20,
    ),
}


@pytest.mark.parametrize("case", DENOISERS)
def test_a_denoiser_parses_and_builds_for_many_sizes(case: str, tmp_path: Path) -> None:
    name, arguments, input_name, frames, dtype, opset = DENOISERS[case]
    model = create_model(name, **arguments)
    multiple = model.multiple
    assert isinstance(multiple, int)
    shape = (2, *frames, 2 * multiple, 3 * multiple, 4 if frames else 3)
    sample = {input_name: torch.zeros(shape, dtype=torch.uint8)}
    graph = denoiser_graph(DeployDenoiser(model, dtype), multiple, opset, sample)
    report = through_tensorrt(graph, tmp_path, multiple)
    assert report["errors"] == []
    axes = [-1, *frames, -1, -1]
    assert report["inputs"] == [{"name": input_name, "shape": [*axes, shape[-1]], "dtype": "UINT8"}]
    assert report["outputs"] == [
        {"name": "denoised", "shape": [*axes, 3], "dtype": "UINT8"},
        {"name": "restored", "shape": [*axes, 3], "dtype": "FLOAT"},
    ]
    assert report["plan_bytes"] > 0
    builds_with_plugins(graph, report, tmp_path, multiple)
