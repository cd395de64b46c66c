"""What an engine is held against: its own ONNX file, run by ONNX Runtime on the CPU."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from export.engine_inputs import Batch
from export.engine_parity import Outputs
from export.measures import ParityError, open_session
from skipvit.manifest import Precision

_BF16, _FP32 = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT


def reference_outputs(path: Path, precision: Precision, batches: Sequence[Batch]) -> list[Outputs]:
    """Outputs of the file for each batch.

    ONNX Runtime multiplies no bfloat16 on the CPU, so of such a file the weights stay as they are and the arithmetic is
    done in float32.

    Raises:
        ParityError: ONNX Runtime cannot run the file.
    """
    try:
        session = _in_float32(path) if precision == "bf16" else open_session(path)
        names = [output.name for output in session.get_outputs()]
        return [dict(zip(names, session.run(names, batch), strict=True)) for batch in batches]
    except Exception as error:  # ONNX Runtime's errors have no common public base
        raise ParityError(
            f"ONNX Runtime cannot run {path} on the CPU ({' '.join(str(error).split())[:200]}), so there is nothing to "
            "compare the engine with; --no-parity builds it unverified"
        ) from None


def _in_float32(path: Path) -> Any:
    model = onnx.load(path)
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            _widen(tensor)
        for value in [*graph.input, *graph.output, *graph.value_info]:
            if value.type.tensor_type.elem_type == _BF16:
                value.type.tensor_type.elem_type = _FP32
        for node in graph.node:
            _widen_attributes(node)
    for function in model.functions:
        for node in function.node:
            _widen_attributes(node)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph, and the branches inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _widen_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == _BF16:
            attribute.i = _FP32
        if attribute.HasField("t"):
            _widen(attribute.t)


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == _BF16:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
