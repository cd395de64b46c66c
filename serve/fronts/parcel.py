"""Tensors in memory without a name, as they go from process to process: of any size, and nobody waits for a reader.

4 bytes      length of the JSON that follows
JSON         rows of the request, and of each tensor its name, type, shape and bytes
bytes        of each tensor in turn; strings are their lengths as uint32, then the strings in UTF-8
"""

import os
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from serve.foreign.engine import Array

_LENGTH = struct.Struct("<I")
_STRINGS = "strings"


def packed(rows: int, tensors: Mapping[str, Array]) -> int:
    """A descriptor of new memory with the tensors in it, the caller's to close.

    Raises:
        OSError: there is none to be had.
        UnicodeEncodeError: a string has a lone surrogate.
    """
    data = {name: _bytes_of(array) for name, array in tensors.items()}
    listed = [
        [name, _STRINGS if array.dtype == object else array.dtype.str, array.shape, len(data[name])]
        for name, array in tensors.items()
    ]
    head = orjson.dumps([rows, listed])
    fd = os.memfd_create("skipvit-tensors", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(_LENGTH.pack(len(head)) + head)
            for piece in data.values():
                file.write(piece)
    except BaseException:
        os.close(fd)
        raise
    return fd


def unpacked(fd: int) -> tuple[int, dict[str, Array]]:
    """Rows and tensors of a parcel, whose descriptor is closed."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        (size,) = _LENGTH.unpack(file.read(_LENGTH.size))
        rows, listed = orjson.loads(file.read(size))
        return rows, {name: _array(file.read(length), kind, shape) for name, kind, shape, length in listed}


def _bytes_of(array: Array) -> Any:
    if array.dtype != object:
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    texts = [str(text).encode() for text in array.reshape(-1)]
    return np.array([len(text) for text in texts], np.uint32).tobytes() + b"".join(texts)


def _array(data: bytes, kind: str, shape: list[int]) -> Array:
    if kind != _STRINGS:
        return np.frombuffer(data, np.dtype(kind)).reshape(shape)
    count = int(np.prod(shape))
    ends = np.cumsum(np.frombuffer(data, np.uint32, count), dtype=np.int64) + 4 * count
    starts = [4 * count, *ends[:-1].tolist()] if count else []
    texts = [data[start:end].decode() for start, end in zip(starts, ends.tolist(), strict=True)]
    array: Array = np.empty(count, object)
    array[:] = texts
    return array.reshape(shape)
