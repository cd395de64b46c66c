"""An ONNX file about to become an engine: bounded, checked, and looked through before TensorRT's parser sees a byte.

The parser ends the process on some damaged files, and takes a node that is called like a standard op for that op,
whatever its domain.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # has no stubs

from skipvit.manifest import Precision
from trt_plugins.plugin_op import NAMESPACE, VERSION

MIN_OPSET = 18
_MAX_BYTES = 2**31 - 1  # protobuf's own limit
_QUANTISED: dict[int, Precision] = {
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "int8",
    onnx.TensorProto.FLOAT8E4M3FN: "fp8",
    onnx.TensorProto.FLOAT8E5M2: "fp8",
}
_FLOATS: dict[int, Precision] = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
}
_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


class GraphError(Exception):
    """An ONNX file that no engine can be built from; the message says why and what to do."""


@dataclass(frozen=True)
class Graph:
    """What the rest of the program needs to know of an ONNX file.

    Attributes:
        inputs: numpy dtype and shape by name; None is an axis of any length.
        ours: the op of each node that is one of ours, by the node's name in TensorRT.
        precision: what most of its weights are stored in, or what its Q/DQ nodes quantise to.
    """

    path: Path
    sha256: str
    inputs: dict[str, tuple[str, tuple[int | None, ...]]]
    ours: dict[str, str]
    precision: Precision


def read_graph(path: Path) -> Graph:
    """Reads and checks an ONNX file.

    Raises:
        GraphError: see the class.
    """
    raw = _read_bounded(path)
    try:
        model = onnx.load_from_string(raw)
    except DecodeError:
        raise GraphError(f"{path} is no ONNX file, or is cut short; copy it again or export it again") from None
    _check_opsets(path, model)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise GraphError(f"{path} keeps its weights in other files; save it with its weights in one file")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise GraphError(f"{path} is not valid ONNX ({_first_line(error)}); export it again") from None
    _check_names(path, model)
    _check_quantised(path, model)
    initializers = {tensor.name for tensor in model.graph.initializer}
    return Graph(
        path=path,
        sha256=hashlib.sha256(raw).hexdigest(),
        inputs={value.name: _tensor(value) for value in model.graph.input if value.name not in initializers},
        ours={
            node.name or f"node_of_{node.output[0]}": node.op_type
            for node in model.graph.node
            if node.domain == NAMESPACE or _plugin_namespace(node) == NAMESPACE
        },
        precision=_precision(model),
    )


def _read_bounded(path: Path) -> bytes:
    try:
        if not path.is_file():  # a pipe or a device would be waited for
            raise GraphError(f"{path} is not there, or is no file; give an ONNX file or an entry of a model repository")
        if path.stat().st_size > _MAX_BYTES:
            raise GraphError(f"{path} is over 2 GB, which no ONNX file in one piece is; export the model again")
        return path.read_bytes()
    except OSError as error:
        raise GraphError(f"{path} cannot be read: {error.strerror}; check who may read it") from None


def _check_opsets(path: Path, model: onnx.ModelProto) -> None:
    opsets = {imported.domain or "ai.onnx": imported.version for imported in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    opset = opsets.get("ai.onnx")
    if opset is None:
        raise GraphError(f"{path} is no ONNX file, or is cut short; copy it again or export it again")
    if not MIN_OPSET <= opset <= newest:
        raise GraphError(
            f"{path} has opset {opset}, and engines are built from {MIN_OPSET} to {newest}; "
            f"export it again with --opset {MIN_OPSET} or higher"
        )
    ours = opsets.get(NAMESPACE)
    if ours is not None and str(ours) != VERSION:
        raise GraphError(
            f"{path} has nodes of {NAMESPACE} version {ours}, and the plugins here are of version {VERSION}; "
            "export it again, or use the skipvit that exported it"
        )


def _check_names(path: Path, model: onnx.ModelProto) -> None:
    """TensorRT imports such a node as the standard op, and ignores its domain: another network, without a word."""
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") and onnx.defs.has(node.op_type, ""):
            raise GraphError(
                f"{path}: node {node.name!r} is a {node.op_type} of domain {node.domain!r}, which TensorRT would take "
                f"for the standard {node.op_type}; rename the op and export it again"
            )


def _check_quantised(path: Path, model: onnx.ModelProto) -> None:
    """Biases in int32 are what ONNX Runtime's quantisation for CPUs makes, skipvit-to-onnx's int8 with it."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and types.get(node.input[0]) == onnx.TensorProto.INT32:
            raise GraphError(
                f"{path} is quantised for CPUs: it has biases in int32, which TensorRT does not take; build from the "
                "model's fp16 or fp32 file, or quantise it for TensorRT, symmetrically and without biases"
            )


def _tensor(value: onnx.ValueInfoProto) -> tuple[str, tuple[int | None, ...]]:
    tensor = value.type.tensor_type
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim)
    return str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape


def _plugin_namespace(node: onnx.NodeProto) -> str:
    return next((a.s.decode(errors="replace") for a in node.attribute if a.name == "plugin_namespace"), "")


def _precision(model: onnx.ModelProto) -> Precision:
    """A graph with Q/DQ nodes is int8 or fp8; any other is what most of its weights are stored in."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in _QUANTISERS and len(node.input) > 2 and types.get(node.input[2]) in _QUANTISED:
            return _QUANTISED[types[node.input[2]]]
        if node.op_type == "QuantizeLinear":
            return next(
                (_QUANTISED[a.i] for a in node.attribute if a.name == "output_dtype" and a.i in _QUANTISED), "int8"
            )
    sizes: Counter[int] = Counter()
    for tensor in model.graph.initializer:
        if tensor.data_type in _FLOATS:
            sizes[tensor.data_type] += max(1, len(tensor.raw_data))
    return _FLOATS[sizes.most_common(1)[0][0]] if sizes else "fp32"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
