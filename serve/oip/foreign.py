"""Inference requests for models that are not ours: any tensors in, any tensors out, whole requests in the batcher."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.admission import Places
from serve.errors import BadTensor, TooLarge, quoted
from serve.foreign.config import ConfiguredTensor
from serve.foreign.engine import TensorRequest
from serve.foreign.graph import Signature
from serve.foreign.model import ForeignModel
from serve.oip.foreign_answers import answers_of
from serve.oip.messages import InferRequest, WantedOutput
from serve.oip.rows import RowRunner
from serve.oip.tensors import BYTES, TYPES, Array, Header, Tensor, read_binary
from serve.ticket import Ticket
from serve.urgency import Priority
from serve.web.hang_up import Client

_MOST_JSON_ELEMENTS = 1 << 20
_MOST_CLASSES = 1 << 16  # each is a text
IN_THREAD_BYTES = 1 << 20  # what takes the event loop a millisecond
_LENGTH_BYTES = 4  # of the length before each string


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a request: its outputs, each with whether it goes out as binary data, and their size.

    ``rows`` are its own, 1 where there is no batch axis; ``shared`` are those of the whole run.
    """

    outputs: list[tuple[Tensor, bool]]
    bytes: int
    ticket: Ticket
    rows: int
    shared: int


@dataclass(frozen=True, slots=True)
class Turn:
    """Where a request's place is counted, how its client is heard, and how urgent it is."""

    places: Sequence[Places]
    client: Client
    priority: Priority


class TensorRunner:
    """Checks a request against its model's signature, runs it, and makes tensors of what comes out."""

    def __init__(self, rows: RowRunner, max_answer_bytes: int) -> None:
        self._rows = rows
        self._max_answer_bytes = max_answer_bytes

    async def run(
        self,
        model: ForeignModel,
        request: InferRequest,
        turn: Turn,
        take: Callable[[int], None],
    ) -> Ran:
        """Runs one request.

        Args:
            take: called with the bytes of the outputs; accounts for their memory, or raises.

        Raises:
            BadTensor: the request does not fit the model.
            TooLarge: the outputs are more than an answer may hold.
            RequestError, ClientGone: as ``RowRunner.run``.
        """
        wanted = wanted_outputs(model, request)
        tensors = tensor_request(model, request.inputs)
        try:
            [ticket] = await self._rows.run(model, [tensors], turn.places, turn.client, turn.priority)
        except BaseException:  # whatever ended the wait, nobody wants the rest of a run
            tensors.stop()
            raise
        outputs: Sequence[Array] = ticket.result
        size = self._checked_size(outputs, wanted, tensors.rows)
        take(size)
        if size <= IN_THREAD_BYTES:
            answers = answers_of(model, outputs, wanted, tensors.rows)
        else:
            answers = await asyncio.to_thread(answers_of, model, outputs, wanted, tensors.rows)
        return Ran(answers, size, ticket, max(1, tensors.rows), max(1, tensors.size))

    def _checked_size(self, outputs: Sequence[Array], wanted: Sequence[tuple[int, WantedOutput]], rows: int) -> int:
        size = 0
        for index, output in wanted:
            array = outputs[index]
            size += _bytes_of(array)
            if not output.binary and not output.classes and array.size > _MOST_JSON_ELEMENTS:
                raise TooLarge(
                    "answer_too_large",
                    f"output {quoted(output.name)} has {array.size} elements, the limit of JSON is "
                    f"{_MOST_JSON_ELEMENTS}",
                    'ask for it as binary data: "parameters": {"binary_data": true}',
                )
            if output.classes and (classes := min(output.classes * max(1, rows), array.size)) > _MOST_CLASSES:
                raise TooLarge(
                    "answer_too_large",
                    f"output {quoted(output.name)} is wanted as {classes} classes, the limit is {_MOST_CLASSES}",
                    "ask for fewer, or for the numbers",
                )
        if size > self._max_answer_bytes:
            raise TooLarge(
                "answer_too_large",
                f"the outputs have {size} bytes, the limit is {self._max_answer_bytes}",
                "send fewer or smaller rows per request, or ask for fewer outputs",
            )
        return size


def _bytes_of(array: Array) -> int:
    if array.dtype != object:
        return array.nbytes
    return sum(len(text) + _LENGTH_BYTES for text in array.reshape(-1))


def raw_tensor(model: ForeignModel, raw: bytes) -> Tensor:
    """A body without JSON: the one input of a model, of one row, whose shape follows from its size.

    Raises:
        BadTensor: the model has several inputs, or its shape does not follow.
    """
    signature = model.signature
    only = signature.inputs[0]
    size = 1 if only.datatype == BYTES else TYPES[only.datatype].itemsize
    known = int(np.prod([axis for axis in only.dims if axis != -1])) * size
    unknown = only.dims.count(-1)
    free = len(raw) // known if unknown and only.datatype != BYTES else 1
    shape = tuple(free if axis == -1 else axis for axis in only.dims)
    one_string = only.datatype != BYTES or int(np.prod(shape)) == 1
    if len(signature.inputs) > 1 or unknown > 1 or not one_string:
        raise BadTensor(
            "bad_request",
            f"the body has no JSON, and model {quoted(model.name)} takes more than one tensor whose shape follows from "
            "a number of bytes",
            "send the JSON, and its length as Inference-Header-Content-Length",
        )
    if signature.max_rows:
        shape = (1, *shape)
    if only.datatype == BYTES:
        return Tensor(only.name, BYTES, shape, [raw])
    return read_binary(Header(only.name, only.datatype, shape, None, len(raw)), memoryview(raw))


def wanted_outputs(model: ForeignModel, request: InferRequest) -> list[tuple[int, WantedOutput]]:
    """The outputs to answer with, each with its place in the signature. Raises BadTensor if the model has no such."""
    known = {tensor.name: index for index, tensor in enumerate(model.signature.outputs)}
    if request.outputs is None:
        return [(index, WantedOutput(name, request.binary)) for name, index in known.items()]
    for output in request.outputs:
        if output.name not in known:
            raise BadTensor(
                "unknown_output",
                f"unexpected inference output {quoted(output.name)} for model {quoted(model.name)}",
                f"it has {_names(known)}",
            )
        if output.classes and model.signature.outputs[known[output.name]].datatype == BYTES:
            raise BadTensor(
                "no_classes",
                f"output {quoted(output.name)} is of strings, which are in no order",
                "leave classification out",
            )
    return [(known[output.name], output) for output in request.outputs]


def tensor_request(model: ForeignModel, inputs: Sequence[Tensor]) -> TensorRequest:
    """The inputs as the graph takes them. Raises BadTensor unless they fit the model's signature and each other."""
    signature = model.signature
    came = {tensor.name: tensor for tensor in inputs}
    wanted = {tensor.name: tensor for tensor in signature.inputs}
    for name in came:
        if name not in wanted:
            raise BadTensor(
                "unknown_input",
                f"unexpected inference input {quoted(name)} for model {quoted(model.name)}",
                f"it takes {_names(wanted)}",
            )
    for name in wanted:
        if name not in came:
            raise BadTensor(
                "missing_input",
                f"input {quoted(name)} of model {quoted(model.name)} is missing",
                f"send all of {_names(wanted)}",
            )
    rows = [_rows_of(model.name, signature, wanted[name], tensor) for name, tensor in came.items()]
    if len(set(rows)) > 1:
        raise BadTensor("bad_shape", f"the inputs have {rows} rows", "send as many rows of each")
    _check_axes(signature, came)
    return TensorRequest({name: _array(wanted[name], tensor, rows[0]) for name, tensor in came.items()}, rows[0])


def _rows_of(model: str, signature: Signature, wanted: ConfiguredTensor, tensor: Tensor) -> int:
    """The rows of one input, 0 where there is no batch axis."""
    limits = [signature.max_rows] if signature.max_rows else []
    dims = [*(-1 for _ in limits), *wanted.dims]
    fits = len(dims) == len(tensor.shape) and all(
        size > 0 if axis == -1 else size == axis for axis, size in zip(dims, tensor.shape, strict=True)
    )
    if tensor.datatype != wanted.datatype or not fits:
        raise BadTensor(
            "bad_shape",
            f"input {quoted(tensor.name)} is {tensor.datatype} {list(tensor.shape)}, model {quoted(model)} takes "
            f"{wanted.datatype} {dims}, where -1 is any size from 1",
            "see the model's metadata",
        )
    if limits and tensor.shape[0] > limits[0]:
        raise BadTensor(
            "too_many_rows",
            f"input {quoted(tensor.name)} has {tensor.shape[0]} rows, model {quoted(model)} takes up to {limits[0]}",
            "send them in several requests",
        )
    return tensor.shape[0] if limits else 0


def _check_axes(signature: Signature, came: dict[str, Tensor]) -> None:
    """Axes that the graph calls by one name must have one size."""
    sizes: dict[str, int] = {}
    for wanted in signature.inputs:
        if wanted.reshaped is not None:
            continue
        shape = came[wanted.name].shape[1 if signature.max_rows else 0 :]
        for axis, size in zip(signature.axes[wanted.name], shape, strict=True):
            if isinstance(axis, str) and sizes.setdefault(axis, size) != size:
                raise BadTensor(
                    "bad_shape",
                    f"axis {quoted(axis)} is {sizes[axis]} in one input and {size} in {quoted(wanted.name)}",
                    "let the inputs agree",
                )


def _array(wanted: ConfiguredTensor, tensor: Tensor, rows: int) -> Array:
    if isinstance(tensor.values, list):
        array: Array = np.array([_text(tensor.name, value) for value in tensor.values], object).reshape(tensor.shape)
    elif tensor.datatype == "BOOL":
        array = tensor.values.view(np.uint8) != 0  # any byte may have come, and true is 1
    else:
        array = tensor.values
    if wanted.reshaped is None:
        return array
    shape = (rows, *wanted.reshaped) if rows else wanted.reshaped
    try:
        return array.reshape(shape)
    except ValueError:
        raise BadTensor(
            "bad_shape",
            f"input {quoted(tensor.name)} is {list(tensor.shape)}, which does not become {list(shape)}",
            "see the model's configuration",
        ) from None


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadTensor(
            "bad_tensor",
            f"input {quoted(name)} has a string that is not UTF-8, and ONNX's strings are",
            "encode it, for example as base64",
        ) from None


def _names(names: dict[str, Any]) -> str:
    return ", ".join(quoted(name) for name in names)
