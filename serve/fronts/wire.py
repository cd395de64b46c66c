"""What a front and the engine's process say to each other, over a Unix socket.

The engine begins with a table of its models (JSON). The front answers with the size of its ring, and the ring itself,
and with one end of a way for tensors where there are models that are not ours.
When the models are warm, the engine says what it measured (JSON). When the front has changed over to them it says
``ADOPTED``, a byte, and from then on it sends ``SUBMIT`` records, and the engine a ``DONE`` for each, in any order.

A connection is for one table. When what is served changes, each front gets a new connection, and hangs up on the old
one when its last request is answered.
"""

import socket
import struct
from typing import Literal, TypeGuard

import orjson
from pydantic import BaseModel, ConfigDict

from serve import errors
from serve.engines.engine import EngineInfo
from serve.errors import EngineFailed, NotReady, RequestError
from serve.foreign.config import ForeignConfig
from serve.foreign.graph import Signature
from serve.fronts.ring import aligned
from skipvit.manifest import Manifest, Task

SETUP = struct.Struct("<IQ")  # slots, bytes of each
SUBMIT = struct.Struct("<IHBx")  # slot, model's place in the table, priority
DONE = struct.Struct("<IBxHfI")  # slot, outcome, size of the batch, seconds of the run, bytes of an error's text

ANSWER = struct.Struct("<IHIf")  # number of a request, its ticket's batch, rows of the run, seconds of the run
ADOPTED = b"\1"
SEND_BUFFER = 4 << 20  # each record takes some 768 bytes of it

OK, FAILED, DROPPED = 0, 1, 2

_LENGTH = struct.Struct("<I")
_MAX_TABLE_BYTES = 64 << 20
ERROR_BYTES = 2048


class ModelRow(BaseModel):
    """One model of the engine's process: its entry in the repository, its engine, and the bytes of a row.

    ``result_shape`` is that of one row of the output, of ``result_type``.
    """

    model_config = ConfigDict(frozen=True)

    manifest: Manifest
    folder: str
    labels: tuple[str, ...]
    classes: int
    engine: EngineInfo
    row: tuple[int, ...]
    result_shape: tuple[int, ...]
    result_type: Literal["float32", "uint8"]

    @property
    def input_bytes(self) -> int:
        size = 1
        for axis in self.row:
            size *= axis
        return size

    @property
    def result_bytes(self) -> int:
        size = 4 if self.result_type == "float32" else 1
        for axis in self.result_shape:
            size *= axis
        return size

    @property
    def slot_bytes(self) -> int:
        """An input and the result behind it, or the text of an error."""
        return aligned(self.input_bytes) + max(self.result_bytes, ERROR_BYTES)


class ForeignRow(BaseModel):
    """One model of the engine's process that is not ours; its requests go by a way of their own."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int
    path: str
    config: ForeignConfig
    signature: Signature
    labels: dict[str, tuple[str, ...]]
    engine: EngineInfo


def is_ours(row: ModelRow | ForeignRow) -> TypeGuard[ModelRow]:
    """Whether a model takes pixels in slots."""
    return isinstance(row, ModelRow)


class FailedRow(BaseModel):
    """A version that was not taken into service, and why."""

    name: str
    version: int
    reason: str


class Table(BaseModel):
    """The models of the engine's process; records name them by their places here. Groups are there with their tasks."""

    models: list[ModelRow | ForeignRow]
    failed: list[FailedRow] = []
    groups: dict[str, Task] = {}


class Measured(BaseModel):
    """What warming up a model has measured, as Batcher and ServedModel name it."""

    max_batch: int = 1
    max_wait_s: float = 0.0
    tiles_ahead: int = 1
    alone_s: float = 0.0
    row_s: float = 0.0


class Warm(BaseModel):
    """All models of the table, in its order, warm."""

    models: list[Measured]


def send_document(connection: socket.socket, document: BaseModel) -> None:
    """Sends one JSON document."""
    data = document.model_dump_json().encode()
    connection.sendall(_LENGTH.pack(len(data)) + data)


def read_document(connection: socket.socket) -> bytes:
    """Reads one JSON document. Raises EOFError if the other end is gone, or sends none."""
    (size,) = _LENGTH.unpack(read_exactly(connection, _LENGTH.size))
    if size > _MAX_TABLE_BYTES:
        raise EOFError(f"a document of {size} bytes was announced")
    return read_exactly(connection, size)


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """Reads so many bytes. Raises EOFError if there are no more."""
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


class Records:
    """Fixed-size records out of a stream of bytes, as many as a read brings."""

    def __init__(self, connection: socket.socket, kind: struct.Struct) -> None:
        self._connection = connection
        self._kind = kind
        self._rest = b""

    def read(self) -> list[tuple[int, ...]]:
        """Blocks for at least one record; none means that the other end is gone."""
        while True:
            try:
                data = self._rest + self._connection.recv(1 << 16)
            except OSError:  # closed from our side, or reset by the other
                return []
            if len(data) == len(self._rest):
                return []
            whole = len(data) - len(data) % self._kind.size
            self._rest = data[whole:]
            if whole:
                return list(self._kind.iter_unpack(data[:whole]))


def error_text(error: RequestError) -> bytes:
    """An error for the other process, in at most ERROR_BYTES."""
    fields = [type(error).__name__, error.code, error.message[:500], error.hint[:500], error.headers]
    text = orjson.dumps(fields)
    return text if len(text) <= ERROR_BYTES else orjson.dumps([*fields[:2], "the model failed on this picture", "", {}])


def error_of(text: bytes) -> RequestError:
    """The error that ``error_text`` was made of."""
    name, code, message, hint, headers = orjson.loads(text)
    kind = getattr(errors, name, None)
    error = RequestError.__new__(kind if isinstance(kind, type) and issubclass(kind, RequestError) else EngineFailed)
    # Not every kind of error takes the same arguments, and all of them have the same fields.
    RequestError.__init__(error, code, message, hint, headers=headers)
    return error


def gone() -> RequestError:
    """What requests get whose engine's process ended."""
    return NotReady("the engine's process ended, and is being started again", "send the request again")
