"""What TensorRT-RTX says of graphs that do not fit our plugins. That it builds those that do: tests/export."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.export.test_tensorrt_rtx import CASES, alone, through_tensorrt
from tests.export.test_tensorrt_rtx import pytestmark as pytestmark

NOT_FOUND = "Plugin not found, are the plugin name, version, and namespace correct?"


def graph_of(case: str = "static", **shapes: tuple[int, ...]) -> onnx.ModelProto:
    op, usual, attributes, *_ = CASES[case]
    return alone(op.body(20), onnx.TensorProto.FLOAT, usual | shapes, attributes)


def attribute(graph: onnx.ModelProto, name: str) -> onnx.AttributeProto:
    return next(attribute for attribute in graph.graph.node[0].attribute if attribute.name == name)


def refusal(graph: onnx.ModelProto, folder: Path) -> tuple[str, str]:
    """The parser's text, and what the plugin itself said on stderr."""
    report = through_tensorrt(graph, folder, plugins=True)
    (error,) = report["errors"]
    assert error["op"] == graph.graph.node[0].op_type
    return error["text"], report["stderr"]


@pytest.mark.parametrize(("name", "value"), [("plugin_version", b"2"), ("plugin_namespace", b"other")])
def test_a_node_of_another_version_or_namespace_runs_its_body(name: str, value: bytes, tmp_path: Path) -> None:
    graph = graph_of()
    attribute(graph, name).s = value
    report = through_tensorrt(graph, tmp_path, plugins=True)
    assert report["errors"] == []
    assert "PLUGIN_V3" not in report["layers"]
    assert report["layers"]["MATRIX_MULTIPLY"] == 1


def test_another_version_without_a_body_is_not_found(tmp_path: Path) -> None:
    graph = graph_of()
    attribute(graph, "plugin_version").s = b"2"
    del graph.functions[:]
    assert NOT_FOUND in refusal(graph, tmp_path)[0]


def test_another_namespace_without_a_body_is_looked_up_by_the_nodes_domain(tmp_path: Path) -> None:
    graph = graph_of()
    attribute(graph, "plugin_namespace").s = b"other"
    del graph.functions[:]
    assert through_tensorrt(graph, tmp_path, plugins=True)["layers"]["PLUGIN_V3"] == 1


def test_an_op_without_a_plugin_is_not_found(tmp_path: Path) -> None:
    graph = graph_of()
    graph.graph.node[0].op_type = "StaticAttentions"
    del graph.functions[:]
    assert NOT_FOUND in refusal(graph, tmp_path)[0]


def test_a_wrong_rank_is_told_with_the_inputs_name(tmp_path: Path) -> None:
    text, said = refusal(graph_of(matrix=(12, 12)), tmp_path)
    assert "output shape computation failed" in text
    assert "StaticAttention's matrix must have 3 dimensions, not 2" in said


def test_shapes_that_do_not_fit_are_told(tmp_path: Path) -> None:
    text, said = refusal(graph_of(matrix=(2, 12, 11)), tmp_path)
    assert "output shape computation failed" in text
    assert "StaticAttention's tokens and its matrix's columns must agree; they are 12, 11" in said


def test_inputs_of_two_types_are_told(tmp_path: Path) -> None:
    graph = graph_of()
    (matrix,) = graph.graph.initializer
    half: Any = onnx.numpy_helper.to_array(matrix).astype(np.float16)
    matrix.CopyFrom(onnx.numpy_helper.from_array(half, matrix.name))
    text, said = refusal(graph, tmp_path)
    assert "getOutputDataTypes reported a non-zero return code" in text
    assert "StaticAttention takes inputs of one type, FLOAT, HALF or BF16; it got FLOAT, HALF" in said


def test_a_missing_attribute_is_told(tmp_path: Path) -> None:
    graph = graph_of()
    graph.graph.node[0].attribute.remove(attribute(graph, "num_heads"))
    text, said = refusal(graph, tmp_path)
    assert "Could not create the plugin" in text
    assert "StaticAttention takes the attributes: num_heads; it got: none" in said


def test_an_attribute_of_another_kind_is_told(tmp_path: Path) -> None:
    graph = graph_of()
    wrong = attribute(graph, "num_heads")
    wrong.CopyFrom(onnx.helper.make_attribute("num_heads", 2.5))
    text, said = refusal(graph, tmp_path)
    assert "Could not create the plugin" in text
    assert "num_heads must be one whole number; it is [2.5]" in said


def test_a_weight_that_no_kernel_takes_is_told(tmp_path: Path) -> None:
    text, said = refusal(graph_of("dwconv", weight=(8, 1, 11, 11)), tmp_path)
    assert "output shape computation failed" in text
    assert "it got (8, 1, 11, 11)" in said
