"""What the supervisor and its processes say to each other: small messages over a pair of Unix sockets each.

The end of a pair is also how either learns that the other is gone, whatever it died of.
"""

import os
import signal
import socket
import struct
from collections import deque
from contextlib import suppress
from enum import IntEnum
from typing import Any, NamedTuple

import orjson

NUMBER = struct.Struct("<I")  # of a question, or of a front
DRAIN = struct.Struct("<d")  # seconds to go on accepting
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HEAD = struct.Struct("<IB")
_MAX_BYTES = 64 << 20
_SEND_WITHIN_S = 10


class Kind(IntEnum):
    """What a message says."""

    START = 1  # to a process: its settings, as JSON
    LINK = 2  # to a process: one end of a connection between a front, by number, and the engine, which comes with it
    DRAIN = 3  # to a front: finish what is in flight, and exit; with the seconds to go on accepting
    STOP = 4  # to the engine: exit
    READY = 5  # from a process: what it was started for is warm
    SCRAPE = 6  # from a front: collect everybody's metrics. To a process: give yours
    SAMPLES = 7  # the answer to SCRAPE
    INVITE = 8  # from the engine: connect a front anew, for what is served has changed
    SERVED = 9  # from the engine: what it serves, for the one that comes after it
    ORDER = 10  # from a front, and passed on to the engine: load, unload or list models
    OUTCOME = 11  # what came of an ORDER, the same way back
    LOOK = 12  # as SCRAPE, of the last ten seconds
    PARTS = 13  # the answer to LOOK
    TENSORS = 14  # between a front and the engine: a request for a model that is not ours, or its answer; with a parcel
    REFUSED = 15  # the answer to TENSORS that failed
    WITHDRAW = 16  # from a front: nobody waits for the answer to a TENSORS any more
    HUNG = 17  # from the engine: a front, by number, does not take what is served, and must be ended


_WITH_FD = (Kind.LINK, Kind.TENSORS)


class Message(NamedTuple):
    """One message; ``fd`` comes with LINK and TENSORS, and is the receiver's to close.

    It is -1 where this process had no descriptor free for it, or the kind of message has none.
    """

    kind: Kind
    body: bytes
    fd: int = -1


class Control:
    """One end of a pair."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        # On the socket, and not Python's timeout, which would also hold for a thread that reads.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_WITHIN_S, 0))
        self._data = bytearray()
        self._fds: deque[int] = deque()

    def send(self, kind: Kind, body: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        """Sends a message. One thread at a time.

        Raises:
            OSError: the other end is gone, or does not read. The connection is then shut down: of this message it may
                have a part, of which the next would be taken for the rest.
        """
        data = _HEAD.pack(len(body), kind) + body
        try:
            sent = socket.send_fds(self.connection, [data], fds) if fds else 0
            self.connection.sendall(memoryview(data)[sent:])
        except BaseException:
            self.hang_up()
            raise

    def receive(self) -> list[Message]:
        """Blocks for at least one message. Raises EOFError if the other end is gone."""
        while not (messages := self._whole()):
            self.take()
        return messages

    def take(self) -> None:
        """Reads what is there, waiting if there is nothing. Raises EOFError if the other end is gone."""
        try:
            data, fds, flags, _ = socket.recv_fds(self.connection, 1 << 16, 8, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            data, fds, flags = b"", [], 0
        if flags & socket.MSG_CTRUNC and not fds:  # the system took it back, and the message came without
            fds = [-1]
        for fd in fds:
            self._fds.append(fd)
        if not data:
            self._drop_fds()  # of a message that has not come whole
            raise EOFError("the other process is gone")
        self._data += data

    def pending(self) -> list[Message]:
        """Reads once, and gives the messages that are complete. Raises EOFError if the other end is gone."""
        self.take()
        return self._whole()

    def hang_up(self) -> None:
        """Shuts the connection down, for whoever reads it here too; what was sent before still arrives."""
        with suppress(OSError):  # it was already
            self.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.connection.close()

    def _drop_fds(self) -> None:
        for fd in self._fds:
            if fd >= 0:
                os.close(fd)
        self._fds.clear()

    def _whole(self) -> list[Message]:
        messages: list[Message] = []
        while len(self._data) >= _HEAD.size:
            size, kind = _HEAD.unpack_from(self._data)
            if size > _MAX_BYTES:
                raise EOFError(f"a message of {size} bytes was announced")
            end = _HEAD.size + size
            if len(self._data) < end:
                break
            fd = self._fds.popleft() if kind in _WITH_FD else -1
            messages.append(Message(Kind(kind), bytes(self._data[_HEAD.size : end]), fd))
            del self._data[:end]
        return messages


def started(fd: int) -> tuple[Control, dict[str, Any], list[Message]]:
    """In a process of the supervisor's: its control connection, what it was started with, and what came behind that.

    Signals are for the supervisor, which a terminal or an init system may send to all of its processes.

    Raises:
        EOFError: the supervisor is gone.
    """
    for sig in SIGNALS:  # not SIG_IGN, which programs that this one starts would inherit
        signal.signal(sig, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # held back until here
    connection = socket.socket(fileno=fd)
    connection.set_inheritable(False)
    control = Control(connection)
    first, *others = control.receive()
    return control, orjson.loads(first.body), others
