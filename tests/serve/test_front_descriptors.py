"""Messages between the processes of a server whose descriptors have run out."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import Mock

import pytest

from serve.fronts.control import DRAIN, NUMBER, Control, Kind, Message
from serve.fronts.front_process import FrontServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fronts need Linux")


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process may open nothing."""
    import resource  # which Windows has not

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_comes_after_a_descriptor_that_was_lost_is_still_heard() -> None:
    """A front with too many connections would never hear of the drain, nor of what is served later."""
    ours, theirs = socket.socketpair()
    one, other = socket.socketpair()
    with ours, theirs, one, other:
        front, supervisor = Control(ours), Control(theirs)
        supervisor.send(Kind.LINK, NUMBER.pack(1), (one.fileno(),))
        with no_descriptors():
            assert front.pending() == [Message(Kind.LINK, NUMBER.pack(1), -1)]
        supervisor.send(Kind.LINK, NUMBER.pack(1), (other.fileno(),))
        [again] = front.pending()
        with socket.socket(fileno=again.fd) as received:
            received.send(b"it is the second")
            assert one.recv(64) == b"it is the second"
        supervisor.send(Kind.DRAIN, DRAIN.pack(0.0))
        assert front.pending() == [Message(Kind.DRAIN, DRAIN.pack(0.0))]


def test_a_front_stays_as_it_is_without_the_descriptor_of_another_link() -> None:
    server = FrontServer.__new__(FrontServer)
    server.repository = repository = cast(Any, Mock())
    server._obey(Message(Kind.LINK, NUMBER.pack(1), -1))
    assert not repository.adopt.called
