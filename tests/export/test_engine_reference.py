"""ONNX Runtime as the judge of engines, also of graphs in numbers that it has no arithmetic for."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.engine_reference import reference_outputs
from export.measures import ParityError
from tests.export.tiny_entry import tiny_graph

WEIGHT = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
BF16 = TensorProto.BFLOAT16


def bfloat16_graph() -> onnx.ModelProto:
    """x + 1 times a weight, in bfloat16 but for what goes in and out; the one is a constant, not an initializer."""
    nodes = [
        helper.make_node("Cast", ["x"], ["x16"], to=BF16),
        helper.make_node("Constant", [], ["one"], value=helper.make_tensor("one", BF16, [], [1.0])),
        helper.make_node("Add", ["x16", "one"], ["sum"]),
        helper.make_node("MatMul", ["sum", "weight"], ["y16"]),
        helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "bfloat16",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor("weight", BF16, WEIGHT.shape, WEIGHT.ravel().tolist())],
        value_info=[helper.make_tensor_value_info("sum", BF16, ["batch", 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_bfloat16_weights_are_kept_and_multiplied_in_float32(tmp_path: Path) -> None:
    onnx.save(bfloat16_graph(), tmp_path / "net.onnx")
    x = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    (found,) = reference_outputs(tmp_path / "net.onnx", "bf16", [{"x": x}])
    weight = WEIGHT.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert not np.array_equal(weight, WEIGHT)
    np.testing.assert_allclose(found["y"], (x + 1) @ weight, rtol=1e-5, atol=1e-5)


def test_any_other_file_is_run_as_it_is(tmp_path: Path) -> None:
    onnx.save(tiny_graph("fp16"), tmp_path / "net.onnx")
    images = np.zeros((2, 8, 8, 3), np.uint8)
    first, second = reference_outputs(tmp_path / "net.onnx", "fp16", [{"images": images}, {"images": images[:1]}])
    assert set(first) == {"logits", "probabilities"}
    np.testing.assert_array_equal(first["logits"][:1], second["logits"])


def test_what_onnx_runtime_cannot_run_is_not_called_verified(tmp_path: Path) -> None:
    onnx.save(bfloat16_graph(), tmp_path / "net.onnx")
    x = np.zeros((1, 4), np.float32)
    with pytest.raises(ParityError, match=r"cannot run .*net\.onnx on the CPU .*; --no-parity builds it unverified"):
        reference_outputs(tmp_path / "net.onnx", "fp16", [{"x": x}])
    with pytest.raises(ParityError, match="nothing to compare the engine with"):
        reference_outputs(tmp_path / "net.onnx", "bf16", [{"z": x}])
