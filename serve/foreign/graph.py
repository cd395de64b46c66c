"""What a graph that is not ours takes and gives: its own tensors, brought together with what its configuration says.

Without a configuration it is what the graph itself says, as Triton completes it: a graph whose tensors all begin with
one axis of any size takes batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort

from serve.foreign.config import ConfiguredTensor, ForeignConfig

USUAL_ROWS = 4  # Triton's, where a graph takes batches and nobody says of what size
_DATATYPES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}
_NAMELESS = "unk__"  # what ONNX Runtime calls axes without a name, each differently


class GraphMismatch(ValueError):
    """A graph and its configuration do not fit together, or it has a tensor of a kind that cannot be sent."""


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """An input or output of the graph, with all its axes: sizes, names of axes that must agree, or None for any."""

    name: str
    datatype: str
    axes: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What requests send and get. With ``max_rows`` 0 they have no batch axis, else it comes first and is not in dims.

    ``axes`` are those of the graph's inputs behind the batch axis, by name.
    """

    inputs: tuple[ConfiguredTensor, ...]
    outputs: tuple[ConfiguredTensor, ...]
    max_rows: int
    axes: Mapping[str, tuple[int | str | None, ...]]


def tensors_of(nodes: Sequence[Any]) -> dict[str, GraphTensor | str]:
    """A session's inputs or outputs by name; of those that no tensor of the protocol can carry, their type alone."""
    found: dict[str, GraphTensor | str] = {}
    for node in nodes:
        kind = str(node.type).removeprefix("tensor(").removesuffix(")")
        known = _DATATYPES.get(kind) if str(node.type).startswith("tensor(") else None
        found[node.name] = GraphTensor(node.name, known, _axes(node.shape)) if known else str(node.type)
    return found


def _axes(shape: Sequence[Any] | None) -> tuple[int | str | None, ...]:
    return tuple(
        size if isinstance(size, int) and size >= 0 else size if isinstance(size, str) and size else None
        for size in (shape or ())
    )


def signature_of(session: ort.InferenceSession, config: ForeignConfig) -> Signature:
    """Brings graph and configuration together.

    Raises:
        GraphMismatch: they contradict each other.
    """
    inputs, outputs = tensors_of(session.get_inputs()), tensors_of(session.get_outputs())
    taken = _all(inputs, "input")
    given = {name: tensor for name, tensor in outputs.items() if isinstance(tensor, GraphTensor)}
    rows = config.max_batch_size
    if rows is None:
        rows = USUAL_ROWS if _takes_batches([*taken.values(), *given.values()]) else 0
    skip = 1 if rows else 0
    for tensor in [*taken.values(), *given.values()] if rows else ():
        if not tensor.axes or isinstance(tensor.axes[0], int):
            raise GraphMismatch(
                f"max_batch_size is {rows}, but {tensor.name!r} is {_shown(tensor)} and has no batch axis of any size"
            )
    wanted_inputs = config.inputs or tuple(_complete(tensor, skip) for tensor in taken.values())
    wanted_outputs = config.outputs or tuple(_complete(tensor, skip) for tensor in given.values())
    missing = sorted(set(taken) - {tensor.name for tensor in wanted_inputs})
    if missing:
        raise GraphMismatch(f"the configuration leaves out the graph's inputs {missing}")
    if not wanted_outputs:
        raise GraphMismatch("the graph has no output that is a tensor of a type that can be sent")
    for wanted in wanted_inputs:
        _check(wanted, inputs, skip, "input")
    for wanted in wanted_outputs:
        _check(wanted, outputs, skip, "output")
    axes = {tensor.name: tensor.axes[skip:] for tensor in taken.values()}
    return Signature(wanted_inputs, wanted_outputs, rows, axes)


def _all(found: Mapping[str, GraphTensor | str], what: str) -> dict[str, GraphTensor]:
    tensors = {name: tensor for name, tensor in found.items() if isinstance(tensor, GraphTensor)}
    for name in found:
        if name not in tensors:
            raise GraphMismatch(f"{what} {name!r} is {found[name]}, which the protocol has no tensor for")
    if not tensors:
        raise GraphMismatch(f"the graph has no {what}s")
    return tensors


def _takes_batches(tensors: Sequence[GraphTensor]) -> bool:
    """Whether all begin with an axis of any size, the same one as far as the graph says."""
    firsts = {tensor.axes[0] if tensor.axes else 0 for tensor in tensors}
    named = {first for first in firsts if isinstance(first, str) and not first.startswith(_NAMELESS)}
    return not any(isinstance(first, int) for first in firsts) and len(named) <= 1


def _complete(tensor: GraphTensor, skip: int) -> ConfiguredTensor:
    dims = tuple(size if isinstance(size, int) else -1 for size in tensor.axes[skip:])
    # The protocol has no tensor without axes; Triton sends one element in its place.
    return ConfiguredTensor(tensor.name, tensor.datatype, dims or (1,), None if dims else ())


def _check(wanted: ConfiguredTensor, found: Mapping[str, GraphTensor | str], skip: int, what: str) -> None:
    tensor = found.get(wanted.name)
    if tensor is None:
        raise GraphMismatch(f"the configuration has {what} {wanted.name!r}, the graph has {sorted(found)}")
    if isinstance(tensor, str):
        raise GraphMismatch(f"{what} {wanted.name!r} is {tensor}, which the protocol has no tensor for")
    dims = wanted.dims if wanted.reshaped is None else wanted.reshaped
    axes = tensor.axes[skip:]
    fits = len(dims) == len(axes) and all(
        not isinstance(axis, int) or size in (-1, axis) for size, axis in zip(dims, axes, strict=True)
    )
    if wanted.datatype != tensor.datatype or not fits:
        raise GraphMismatch(
            f"{what} {wanted.name!r} is {wanted.datatype} {list(dims)} in the configuration, {_shown(tensor)} in the "
            f"graph{', whose first axis is that of batches' if skip else ''}"
        )


def _shown(tensor: GraphTensor) -> str:
    return f"{tensor.datatype} {[-1 if size is None else size for size in tensor.axes]}"
