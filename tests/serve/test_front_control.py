"""The connection between the supervisor and its processes: no message is ever taken for a part of another."""

import os
import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from serve.fronts.control import Control, Kind
from serve.fronts.tensor_desk import TensorDesk
from serve.fronts.tensor_link import TensorLink

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fronts need Linux")

LARGE = bytes(16 << 20)  # more than a pair of sockets holds


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def impatient(control: Control) -> Control:
    control.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 20_000))
    return control


@pytest.mark.parametrize("with_fd", [False, True])
def test_nothing_follows_half_a_message(pair: tuple[socket.socket, socket.socket], with_fd: bool) -> None:
    ours, theirs = (Control(one) for one in pair)
    impatient(ours).send(Kind.READY, b"whole")
    before = set(os.listdir("/proc/self/fd"))
    kind, fds = (Kind.TENSORS, (pair[1].fileno(),)) if with_fd else (Kind.SAMPLES, ())
    with pytest.raises(BlockingIOError):  # the other end does not read
        ours.send(kind, LARGE, fds)
    with pytest.raises(BrokenPipeError):
        ours.send(Kind.READY, b"the next")
    with pytest.raises(EOFError):
        ours.receive()  # who reads at this end hears of it
    [came] = theirs.receive()
    assert came == (Kind.READY, b"whole", -1)
    with pytest.raises(EOFError):
        theirs.receive()
    assert set(os.listdir("/proc/self/fd")) <= before, "what came with half a message is closed"


def test_both_ends_of_the_way_for_tensors_hang_up_on_who_does_not_read() -> None:
    for end in (TensorLink, lambda connection: TensorDesk(connection, [])):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            way = end(ours)
            impatient(way._control)
            if isinstance(way, TensorDesk):
                way.answer(Kind.REFUSED, LARGE)
            else:
                with pytest.raises(BlockingIOError):
                    way._send(Kind.WITHDRAW, LARGE)
            with pytest.raises(BrokenPipeError):
                ours.send(b"more")
