"""What is rounded to int8, by which numbers, and what is not."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper, parser
from torch import nn

from export.deploy import DeployClassifier, FlatLinear
from export.graph import to_graph
from export.quantisation import quantise
from skipvit.models import SkipVisionTransformer
from skipvit.transforms import Preprocessing

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 12, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def deployable() -> DeployClassifier:
    """All of our ops that a classifier may have, attention, and a class token, with weights far from their start."""
    torch.manual_seed(0)
    model = SkipVisionTransformer(
        img_size=(8, 12), patch_size=2, embed_dim=24, depth=4, num_heads=3, num_classes=5,
        spec="static:0 skip:1 tokens:12@2", qkv_bias=False,
    )  # fmt: skip
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return DeployClassifier(model.eval(), Preprocessing(height=8, width=12))


@pytest.fixture(scope="module")
def graph(deployable: DeployClassifier) -> onnx.ModelProto:
    return to_graph(deployable, 8, 12)


@pytest.fixture(scope="module")
def quantised(graph: onnx.ModelProto) -> onnx.ModelProto:
    return quantise(graph, IMAGES)


def constants(graph: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def run(graph: onnx.ModelProto, images: Any, optimised: Path | None = None) -> Any:
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if optimised:
        options.optimized_model_filepath = str(optimised)
    session: Any = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run([graph.graph.output[0].name], {"images": images})[0]


def test_every_linear_layer_is_rounded_and_nothing_else(
    deployable: DeployClassifier, quantised: onnx.ModelProto
) -> None:
    made_by = {node.output[0]: node for node in quantised.graph.node}
    values = constants(quantised)
    read_from_int = Counter()
    for node in quantised.graph.node:
        parts = [made_by[name] for name in node.input if name in made_by]
        parts = [part for part in parts if part.op_type == "DequantizeLinear"]
        if parts:
            read_from_int[node.op_type] += 1
            activation, weight = parts[:2]
            assert made_by[activation.input[0]].op_type == "QuantizeLinear"
            assert (values[activation.input[2]].dtype, values[activation.input[1]].shape) == (np.uint8, ())
            assert (values[weight.input[0]].dtype, values[weight.input[1]].ndim) == (np.int8, 1)
            assert np.abs(values[weight.input[0]].astype(int)).max() == 64, "two products fit into 16 bits"
    layers = sum(isinstance(module, FlatLinear) for module in deployable.modules())
    assert read_from_int == {"Gemm": layers}
    assert Counter(node.op_type for node in quantised.graph.node if node.domain == "skipvit") == dict.fromkeys(
        ("StaticAttention", "TokenDwConvGelu", "EcaGate", "TokenPyramid"), 1
    )
    assert {function.name for function in quantised.functions} >= {"StaticAttention", "TokenPyramid"}


def test_the_runtime_computes_all_of_them_in_integers(quantised: onnx.ModelProto, tmp_path: Path) -> None:
    run(quantised, IMAGES, tmp_path / "optimised.onnx")
    optimised = onnx.load(tmp_path / "optimised.onnx")
    left = Counter(node.op_type for node in optimised.graph.node)
    layers = sum(node.op_type == "Gemm" for node in quantised.graph.node)
    assert left["QGemm"] == layers
    assert not left.keys() & {"DequantizeLinear", "Gemm", "MatMulNBits", "DynamicQuantizeMatMul"}


def test_answers_are_close_and_do_not_depend_on_the_batch(graph: onnx.ModelProto, quantised: onnx.ModelProto) -> None:
    expected, found = run(graph, IMAGES), run(quantised, IMAGES)
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    alone = np.concatenate([run(quantised, IMAGES[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(alone, found[:5], rtol=1e-5, atol=1e-5)


def test_nothing_of_this_machine_is_left_in_it(graph: onnx.ModelProto, quantised: onnx.ModelProto) -> None:
    assert b"/tmp" not in quantised.SerializeToString()
    assert not quantised.metadata_props
    assert quantised.producer_name == graph.producer_name
    assert list(quantised.opset_import) == list(graph.opset_import)
    assert [value.name for value in quantised.graph.output] == ["logits", "probabilities"]


def test_the_numbers_are_those_of_the_formula() -> None:
    """Bytes 0..255 are exact with scale 1, so that only weights are rounded, a scale a column.

    Weights of 8 bits are not run: on a CPU without VNNI they would rightly give something else.
    """
    text = """<ir_version: 10, opset_import: ["": 20]>
    net (uint8[batch,4,1,3] images) => (float[batch,5] logits) <int64[2] flat = {-1,12}> {
      x = Cast<to=1>(images)
      rows = Reshape(x, flat)
      [product] logits = MatMul(rows, weights)
    }"""
    weights = np.random.default_rng(1).standard_normal((12, 5)).astype(np.float32) * np.float32([1, 10, 0.1, 1, 1])
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    images = np.random.default_rng(2).integers(0, 256, (6, 4, 1, 3), dtype=np.uint8)
    images[0], images[1] = 0, 255
    for full_range, most in ((False, 64), (True, 127)):
        found = quantise(model, images, full_range)
        scale = np.abs(weights).max(axis=0) / most
        whole = np.rint(weights / scale)
        np.testing.assert_array_equal(constants(found)["weights_quantized"], whole)
        if not full_range:
            expected = images.reshape(6, 12).astype(np.float64) @ (whole * scale)
            np.testing.assert_allclose(run(found, images), expected, rtol=1e-5, atol=1e-3)


def test_a_model_without_linear_layers_is_refused() -> None:
    text = """<ir_version: 10, opset_import: ["": 20]>
    net (uint8[batch,4] images) => (float[batch,4] logits) { logits = Cast<to=1>(images) }"""
    with pytest.raises(ValueError, match="no linear layers, which int8 is for; export it in fp32 or fp16"):
        quantise(parser.parse_model(text), np.zeros((2, 4), np.uint8))
