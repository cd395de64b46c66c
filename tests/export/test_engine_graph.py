"""What is read from an ONNX file before TensorRT sees it, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import engine_graph
from export.engine_graph import GraphError, read_graph
from tests.export.tiny_entry import tiny_graph


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("opset", [18, 20])
def test_inputs_our_ops_and_the_precision_of_the_weights(precision: str, opset: int, tmp_path: Path) -> None:
    graph = read_graph(saved(tiny_graph(precision, opset), tmp_path))
    assert graph.inputs == {"images": ("uint8", (None, 8, 8, 3))}
    assert graph.ours == {"the gate": "EcaGate"}
    assert graph.precision == precision


def quantised(kind: int, named: bool) -> onnx.ModelProto:
    """x through one pair of Q/DQ; the type stands in the zero point, or in an attribute."""
    zero = helper.make_tensor("zero", kind, [], [0])
    constants = [numpy_helper.from_array(np.array(0.1, np.float32), "scale"), *([] if named else [zero])]
    points = [] if named else ["zero"]
    attributes = {"output_dtype": kind} if named else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", *points], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "scale", *points], ["y"]),
    ]
    inputs, outputs = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4])] for n in "xy")
    graph = helper.make_graph(nodes, "quantised", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(("kind", "precision"), [(TensorProto.INT8, "int8"), (TensorProto.FLOAT8E4M3FN, "fp8")])
def test_quantised_graphs_are_what_they_quantise_to(kind: int, precision: str, named: bool, tmp_path: Path) -> None:
    assert read_graph(saved(quantised(kind, named), tmp_path)).precision == precision


def test_a_node_without_a_name_is_called_as_tensorrt_calls_it(tmp_path: Path) -> None:
    model = tiny_graph()
    for node in model.graph.node:
        node.name = ""
    assert read_graph(saved(model, tmp_path)).ours == {"node_of_gate": "EcaGate"}


def set_opset(version: int, which: int = 0) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[which].version = version

    return change


def rename(model: onnx.ModelProto) -> None:
    (gate,) = (node for node in model.graph.node if node.op_type == "EcaGate")
    gate.op_type = model.functions[0].name = "Relu"


def unsort(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "nowhere"


def put_outside(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")
    weight.ClearField("raw_data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_opset(17), "has opset 17, and engines are built from 18 to"),
        (set_opset(99), "has opset 99, and engines are built from 18 to"),
        (set_opset(2, which=1), "has nodes of skipvit version 2, and the plugins here are of version 1"),
        (rename, "node 'the gate' is a Relu of domain 'skipvit', which TensorRT would take for the standard Relu"),
        (unsort, r"is not valid ONNX \(.*nowhere.*\); export it again"),
        (put_outside, "keeps its weights in other files"),
    ],
)
def test_graphs_that_tensorrt_would_mistake_are_refused(
    change: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path
) -> None:
    model = tiny_graph()
    change(model)
    with pytest.raises(GraphError, match=message):
        read_graph(saved(model, tmp_path))


@pytest.mark.parametrize("keep", [0, 1, 50, 400])
def test_files_that_are_cut_short_are_refused(keep: int, tmp_path: Path) -> None:
    path = saved(tiny_graph(), tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(GraphError, match=r"is no ONNX file, or is cut short|is not valid ONNX"):
        read_graph(path)


def test_files_over_the_bound_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_graph, "_MAX_BYTES", 100)
    with pytest.raises(GraphError, match="over 2 GB"):
        read_graph(saved(tiny_graph(), tmp_path))


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"gone\.onnx is not there, or is no file"):
        read_graph(tmp_path / "gone.onnx")
