"""A classifier of a dozen nodes with one op of ours, as a graph and as a repository's entry: engines build in a second.

Pictures (batch, 8, 8, 3) become 64 tokens of 8 channels, which EcaGate weighs; four classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.ops import eca_gate
from export.ops.domain import DOMAIN, PLUGIN_ATTRIBUTES, VERSION
from skipvit.artifacts import LABELS, MANIFEST, sha256_of
from skipvit.manifest import Manifest, Tensor
from skipvit.publishing import hashes_of, new_version, write_atomically
from skipvit.transforms import Preprocessing

SIDE, CLASSES = 8, 4
FILES = {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}
_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}


def tiny_graph(
    precision: str = "fp32", opset: int = 20, body: bool = True, version: int = VERSION, **plugin: str
) -> onnx.ModelProto:
    """The graph; ``plugin`` replaces attributes by which TensorRT looks for the plugin."""
    dtype, rng = _TYPES[precision], np.random.default_rng(0)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    constants = {
        "tokens": np.array([0, SIDE * SIDE, 3], np.int64),
        "scale": np.array(1 / 255, kind),
        "embed": rng.standard_normal((3, 8)).astype(kind),
        "gate_weight": rng.standard_normal((1, 1, 3)).astype(kind),
        "head": (4 * rng.standard_normal((8, CLASSES))).astype(kind),
        "first": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=dtype),
        helper.make_node("Mul", ["pixels", "scale"], ["values"]),
        helper.make_node("Reshape", ["values", "tokens"], ["rows"]),
        helper.make_node("MatMul", ["rows", "embed"], ["x"]),
        helper.make_node(
            "EcaGate", ["x", "gate_weight"], ["gate"], "the gate", domain=DOMAIN, **{**PLUGIN_ATTRIBUTES, **plugin}
        ),
        helper.make_node("Mul", ["x", "gate"], ["weighed"]),
        helper.make_node("ReduceMean", ["weighed", "first"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "head"], ["scores"]),
        helper.make_node("Cast", ["scores"], ["logits"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", CLASSES]) for n in ("logits", "probabilities")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(
        graph,
        functions=[eca_gate.body(opset)] if body else [],
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, version)],
        ir_version=9,
    )


def of_any_size(scalar: bool) -> onnx.ModelProto:
    """x times a factor, which is an input of one value or a constant."""
    x, y = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "width"])] for name in "xy")
    factor = helper.make_tensor_value_info("factor", TensorProto.FLOAT, [])
    value = [] if scalar else [helper.make_tensor("factor", TensorProto.FLOAT, [], [2.0])]
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    graph = helper.make_graph(nodes, "scaled", [*x, *([factor] if scalar else [])], y, value)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def write_entry(root: Path, name: str = "tiny", **changes: Any) -> Path:
    """Writes version 1 in both precisions, and returns its folder; ``changes`` replace fields of the manifest."""
    (root / name).mkdir(parents=True, exist_ok=True)
    labels = root / name / LABELS
    write_atomically(labels, "".join(f"class {i}\n" for i in range(CLASSES)))
    with new_version(root, name, 1) as folder:
        for precision, file in FILES.items():
            onnx.save(tiny_graph(precision), folder / file)
        fields: dict[str, Any] = {
            "schema_version": 2,  # as entries of before there were engines
            "name": name,
            "version": 1,
            "task": "classification",
            "architecture": "tiny",
            "inputs": (Tensor(name="images", dtype="uint8", shape=("batch", SIDE, SIDE, 3)),),
            "outputs": tuple(
                Tensor(name=n, dtype="float32", shape=("batch", CLASSES)) for n in ("logits", "probabilities")
            ),
            "preprocessing": Preprocessing(height=SIDE, width=SIDE, resize="squash", interpolation="box"),
            "weights_from": "a test",
            "created": "2026-01-01T00:00:00Z",
            "commit": "unknown",
            "versions": {},
            "models": FILES,
            "files": {**hashes_of(folder), LABELS: sha256_of(labels)},
            "parity": (),
            "macs": 1,
            "params": 1,
        }
        write_atomically(folder / MANIFEST, Manifest(**{**fields, **changes}).to_json())
    return root / name / "1"
