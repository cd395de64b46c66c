"""Small graphs that are not ours, and Triton's layout around them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

NODES = {
    "add_sub": [("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"], {}), ("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"], {})],
    "identity": [("Identity", ["INPUT0"], ["OUTPUT0"], {})],
    "add_sub_strings": [
        ("Cast", ["INPUT0"], ["a"], {"to": TensorProto.INT32}),
        ("Cast", ["INPUT1"], ["b"], {"to": TensorProto.INT32}),
        ("Add", ["a", "b"], ["sum"], {}),
        ("Sub", ["a", "b"], ["difference"], {}),
        ("Cast", ["sum"], ["OUTPUT0"], {"to": TensorProto.STRING}),
        ("Cast", ["difference"], ["OUTPUT1"], {"to": TensorProto.STRING}),
    ],
}
Axes = Sequence[int | str | None]


def graph(
    nodes: str | Sequence[Any],
    inputs: dict[str, tuple[int, Axes]],
    outputs: dict[str, tuple[int, Axes]],
    constants: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    """A model of ONNX nodes (op, inputs, outputs, attributes); tensors are a TensorProto type and axes."""
    listed = NODES[nodes] if isinstance(nodes, str) else nodes
    made = [helper.make_node(op, list(taken), list(given), **options) for op, taken, given, options in listed]

    def described(tensors: dict[str, tuple[int, Axes]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, list(axes)) for name, (kind, axes) in tensors.items()]

    initializers = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    whole = helper.make_graph(made, "foreign", described(inputs), described(outputs), initializers)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def add_sub(kind: int = TensorProto.INT32, axes: Axes = ("batch", 16), nodes: str = "add_sub") -> onnx.ModelProto:
    """Triton's example model: the sum and the difference of two tensors."""
    tensors = {"INPUT0": (kind, axes), "INPUT1": (kind, axes)}
    return graph(nodes, tensors, {"OUTPUT0": (kind, axes), "OUTPUT1": (kind, axes)})


def identity(kind: int, axes: Axes = ("batch", "n")) -> onnx.ModelProto:
    """Gives what it takes."""
    return graph("identity", {"INPUT0": (kind, axes)}, {"OUTPUT0": (kind, axes)})


def write_foreign(root: Path, name: str, model: onnx.ModelProto, config: str | None = None, version: int = 1) -> Path:
    """Writes a model into a repository as Triton has it, without a manifest; returns the version's folder."""
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    if config is not None:
        (root / name / "config.pbtxt").write_text(config)
    return folder


def config_of(
    rows: int, inputs: dict[str, tuple[str, str]], outputs: dict[str, tuple[str, str]], more: str = ""
) -> str:
    """A config.pbtxt; tensors are a type without its prefix, and what else stands in their block."""

    def listed(kind: str, tensors: dict[str, tuple[str, str]]) -> str:
        blocks = [f'{{ name: "{name}" data_type: TYPE_{of} {rest} }}' for name, (of, rest) in tensors.items()]
        return f"{kind} [ {', '.join(blocks)} ]"

    return f"max_batch_size: {rows}\n{listed('input', inputs)}\n{listed('output', outputs)}\n{more}\n"


SIMPLE_CONFIG = config_of(
    8,
    {"INPUT0": ("INT32", "dims: [ 16 ]"), "INPUT1": ("INT32", "dims: [ 16 ]")},
    {"OUTPUT0": ("INT32", "dims: [ 16 ]"), "OUTPUT1": ("INT32", "dims: [ 16 ]")},
    "dynamic_batching { }",
)
