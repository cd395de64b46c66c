"""What a graph that is not ours gives, as tensors of an answer, with Triton's classification extension."""

from collections.abc import Sequence

import numpy as np

from serve.foreign.config import ConfiguredTensor
from serve.foreign.model import ForeignModel
from serve.oip.messages import WantedOutput
from serve.oip.tensors import BYTES, TYPES, Array, Tensor


def answers_of(
    model: ForeignModel, outputs: Sequence[Array], wanted: Sequence[tuple[int, WantedOutput]], rows: int
) -> list[tuple[Tensor, bool]]:
    """Tensors of the wanted outputs, of which each comes with its place in ``outputs``, and whether they go out as
    binary data. ``rows`` are those of the request, 0 where there is no batch axis.
    """
    answers = []
    for index, output in wanted:
        array = _reshaped(model.signature.outputs[index], outputs[index], rows)
        if output.classes:
            answers.append((_classes(array, rows, output, model.labels_of(output.name)), output.binary))
        else:
            answers.append((_tensor(output.name, array), output.binary))
    return answers


def _reshaped(wanted: ConfiguredTensor, array: Array, rows: int) -> Array:
    if wanted.reshaped is not None:
        return array.reshape((rows, *wanted.dims) if rows else wanted.dims)
    return array if array.ndim else array.reshape(1)


def _tensor(name: str, array: Array) -> Tensor:
    if array.dtype == object:
        return Tensor(name, BYTES, array.shape, [str(text).encode() for text in array.reshape(-1)])
    datatype = next(known for known, dtype in TYPES.items() if dtype == array.dtype)
    return Tensor(name, datatype, array.shape, np.ascontiguousarray(array))


def _classes(array: Array, rows: int, output: WantedOutput, labels: Sequence[str]) -> Tensor:
    """Triton's classification extension: of each row, or of all, the largest elements as "value:index:label"."""
    table = array.reshape(rows or 1, -1)
    count = min(output.classes, table.shape[1])
    best = np.argsort(-table.astype(np.float64), axis=1, kind="stable")[:, :count]
    strings = [
        _class_text(float(values[index]), index, labels)
        for values, indices in zip(table, best.tolist(), strict=True)
        for index in indices
    ]
    return Tensor(output.name, BYTES, (rows, count) if rows else (count,), strings)


def _class_text(value: float, index: int, labels: Sequence[str]) -> bytes:
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{value:f}:{index}{label}".encode()
