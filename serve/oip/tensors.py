"""Tensors of the Open Inference Protocol: the JSON values and raw bytes of a request to arrays, and back.

Raw bytes are little-endian and row-major; an element of BYTES is its length in 4 bytes, then itself (Triton's binary
tensor data extension). Everything here comes from a client: sizes are bounded and compared before memory is taken.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from serve.errors import BadTensor, quoted
from serve.web.uploads import kind_of

Buffer = memoryview
Array = npt.NDArray[Any]

TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"{kind}INT{bits}": np.dtype(f"<{letter}{bits // 8}") for kind, letter in (("U", "u"), ("", "i"))
       for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}  # fmt: skip
BYTES = "BYTES"
MAX_STRINGS = 4096
_MAX_AXES = 8
_MAX_NAME = 256
_MOST_ELEMENTS = 1 << 40  # more than any body holds, and small enough to be multiplied by an element's size
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: ``values`` is an array of ``shape``, or for BYTES a list of as many strings, row-major."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Array | list[bytes]


@dataclass(frozen=True, slots=True)
class Header:
    """What the JSON of a request says of one input tensor, checked, before its values are looked at."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any
    binary_size: int | None

    @property
    def elements(self) -> int:
        """Number of elements of the shape."""
        return math.prod(self.shape)


def parse_header(document: Any) -> Header:
    """Checks one entry of a request's ``inputs``.

    Raises:
        BadTensor: something is missing, malformed, or contradicts the rest.
    """
    if not isinstance(document, dict):
        raise _bad(f"an input is a {kind_of(document)}, an object was needed", 'send {"name", "shape", "datatype"}')
    name = parse_name(document.get("name"), "an input")
    datatype = document.get("datatype")
    if not isinstance(datatype, str) or (datatype not in TYPES and datatype != BYTES):
        raise _bad(f"input {quoted(name)} has datatype {quoted(str(datatype))}", f"use {', '.join((*TYPES, BYTES))}")
    shape = _parse_shape(name, document.get("shape"))
    parameters = document.get("parameters")
    if not isinstance(parameters, dict | None):
        raise _bad(f"the parameters of input {quoted(name)} are a {kind_of(parameters)}", "send an object, or none")
    parameters = parameters or {}
    if "shared_memory_region" in parameters:
        raise _bad(
            f"input {quoted(name)} lies in shared memory, which this server does not read", "send it in the body"
        )
    size = parameters.get("binary_data_size")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise _bad(f"binary_data_size of input {quoted(name)} is {quoted(str(size))}", "send a number of bytes from 0")
    header = Header(name, datatype, shape, document.get("data"), size)
    if (size is None) == (header.data is None):
        both = "both data and a binary_data_size" if header.data is not None else "neither data nor a binary_data_size"
        raise _bad(f"input {quoted(name)} has {both}", "send its values in one of the two ways")
    if datatype == BYTES and header.elements > MAX_STRINGS:
        raise _bad(f"input {quoted(name)} has {header.elements} elements, the limit is {MAX_STRINGS}", "send fewer")
    return header


def parse_name(name: Any, what: str) -> str:
    """The name of an input or output. Raises BadTensor if it is none."""
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
        came = quoted(name) if isinstance(name, str) else f"a {kind_of(name)}"
        raise _bad(f"the name of {what} is {came}", f"send a string of 1 to {_MAX_NAME} characters")
    return name


def _parse_shape(name: str, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list) or not 0 < len(shape) <= _MAX_AXES:
        came = f"{len(shape)} axes" if isinstance(shape, list) else f"a {kind_of(shape)}"
        raise _bad(f"the shape of input {quoted(name)} is {came}", f"send a list of 1 to {_MAX_AXES} sizes")
    elements = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise _bad(f"the shape of input {quoted(name)} has the size {quoted(str(size))}", "send whole numbers")
        elements *= size
        if elements > _MOST_ELEMENTS or size > _MOST_ELEMENTS:
            raise _bad(f"the shape of input {quoted(name)} has more elements than a body holds", "send a smaller one")
    return tuple(shape)


# --- values ---


def read_binary(header: Header, raw: Buffer) -> Tensor:
    """The tensor whose raw bytes are ``raw``, without a copy of numbers. Raises BadTensor if they do not fit."""
    if header.datatype == BYTES:
        return _tensor(header, split_strings(header, raw))
    dtype = TYPES[header.datatype]
    if header.elements * dtype.itemsize != len(raw):
        raise _bad(
            f"input {quoted(header.name)} has {len(raw)} bytes, {list(header.shape)} of {header.datatype} are "
            f"{header.elements * dtype.itemsize}",
            "let the shape, the datatype and the bytes agree",
        )
    return _tensor(header, np.frombuffer(raw, dtype).reshape(header.shape))


def split_strings(header: Header, raw: Buffer) -> list[bytes]:
    """The elements of a BYTES tensor. Raises BadTensor unless they are as many as its shape says, and end with it."""
    strings: list[bytes] = []
    at = 0
    for index in range(header.elements):
        if at + _LENGTH.size > len(raw):
            raise _strings_end(header, index, len(raw))
        (size,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if size > len(raw) - at:
            raise _strings_end(header, index, len(raw))
        strings.append(bytes(raw[at : at + size]))
        at += size
    if at != len(raw):
        raise _bad(
            f"input {quoted(header.name)} has {len(raw) - at} bytes after its {header.elements} elements",
            "let the shape and the bytes agree",
        )
    return strings


def _strings_end(header: Header, index: int, size: int) -> BadTensor:
    return _bad(
        f"the {size} bytes of input {quoted(header.name)} end inside element {index} of {header.elements}",
        "send each element as its length in 4 bytes, little-endian, and then itself",
    )


def read_json(header: Header) -> Tensor:
    """The tensor whose values are JSON, nested as its shape or flat. Raises BadTensor if they do not fit."""
    values = _flat(header)
    kinds: set[type] = set(map(type, values))
    if header.datatype == BYTES:
        if kinds - {str}:
            raise _wrong_kind(header, kinds - {str}, "strings")
        return _tensor(header, [_utf8(header, text) for text in values])
    dtype = TYPES[header.datatype]
    by_kind: dict[str, set[type]] = {"b": {bool}, "f": {int, float}}
    wanted = by_kind.get(dtype.kind, {int})
    if kinds - wanted:
        raise _wrong_kind(header, kinds - wanted, "true or false" if dtype.kind == "b" else "numbers of its datatype")
    try:
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            array = np.array(values, dtype).reshape(header.shape)
    except OverflowError:
        array = None
    if array is None or (dtype.kind == "f" and not np.isfinite(array).all()):
        raise _bad(
            f"input {quoted(header.name)} has a number that {header.datatype} cannot hold", "send numbers in its range"
        )
    return _tensor(header, array)


def _flat(header: Header) -> list[Any]:
    level = header.data
    if not isinstance(level, list):
        raise _bad(f"the data of input {quoted(header.name)} is a {kind_of(level)}", "send a list of its values")
    if level and isinstance(level[0], list):
        lists = [level]
        for size in header.shape:
            if any(type(part) is not list or len(part) != size for part in lists):
                raise _misfit(header)
            lists = level = list(chain.from_iterable(lists))
    if len(level) != header.elements:
        raise _misfit(header)
    return level


def _misfit(header: Header) -> BadTensor:
    return _bad(
        f"the data of input {quoted(header.name)} does not have the shape {list(header.shape)}",
        f"send {header.elements} values, flat or nested as the shape says",
    )


def _wrong_kind(header: Header, kinds: set[type], wanted: str) -> BadTensor:
    came = kind_of(next(iter(kinds))())
    return _bad(f"the data of input {quoted(header.name)} has a {came} in it", f"send {wanted}")


def _utf8(header: Header, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _bad(f"the data of input {quoted(header.name)} is not Unicode", "send it as binary data") from None


def _tensor(header: Header, values: Array | list[bytes]) -> Tensor:
    return Tensor(header.name, header.datatype, header.shape, values)


def join_strings(strings: Sequence[bytes]) -> bytes:
    """The raw bytes of a BYTES tensor."""
    return b"".join(part for text in strings for part in (_LENGTH.pack(len(text)), text))


def raw_bytes(tensor: Tensor) -> bytes | Buffer:
    """The values of a tensor as they lie in a body."""
    if isinstance(tensor.values, list):
        return join_strings(tensor.values)
    return np.ascontiguousarray(tensor.values, TYPES[tensor.datatype]).reshape(-1).view(np.uint8).data


def _bad(message: str, hint: str) -> BadTensor:
    return BadTensor("bad_tensor", message, hint)
