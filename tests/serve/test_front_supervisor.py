"""The supervisor of a server with fronts, at odd moments: all fronts dead, and no process to be had from the system."""

import errno
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from socket import socketpair
from typing import Any, cast
from unittest.mock import Mock

import pytest

from serve.fronts.control import NUMBER, Kind, Message
from serve.fronts.supervisor import Seat, Supervisor
from serve.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fronts need Linux")


def test_a_server_that_is_still_starting_ends_when_it_is_told_to() -> None:
    """Large models take minutes to open; neither the engine nor a front that waits for it listens meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as claim:
        supervisor = Supervisor(Path(), Settings(fronts=2), claim, lambda: None)
        starting, dead = supervisor._fronts
        starting.process = supervisor._engine.process = cast(Any, Mock())
        dead.ready = True
        supervisor._orders.signals.append(signal.SIGTERM)
        supervisor._obey()
        assert supervisor._code == 0


def test_a_server_whose_fronts_are_all_dead_ends_when_it_is_told_to() -> None:
    """Nobody would hear of a drain, and the engines would be waited for until they are killed."""
    with socket.create_server(("127.0.0.1", 0)) as claim:
        supervisor = Supervisor(Path(), Settings(fronts=2), claim, lambda: None)
        supervisor._engine.process = cast(Any, Mock())
        for front in supervisor._fronts:
            front.ready, front.due = True, time.monotonic() + 60.0  # it answered once, and waits for its next process
        supervisor._orders.signals.append(signal.SIGTERM)
        supervisor._obey()
        assert supervisor._code == 0


def test_a_front_that_hangs_is_ended_unless_it_is_starting_or_leaving() -> None:
    with socket.create_server(("127.0.0.1", 0)) as claim:
        supervisor = Supervisor(Path(), Settings(fronts=4), claim, lambda: None)
        old, new, slow, empty = supervisor._fronts
        for seat in (old, new, slow):
            seat.process, seat.started = cast(Any, Mock()), time.monotonic()
        old.ready = True
        slow.started = -1e9

        def hear() -> None:
            for front in supervisor._fronts:
                supervisor._answer(supervisor._engine, Message(Kind.HUNG, NUMBER.pack(front.number)))

        hear()
        assert [cast(Any, seat.process).kill.call_count for seat in (old, new, slow)] == [1, 0, 1]
        assert empty.process is None
        supervisor._leave_by = time.monotonic() + 60.0
        hear()
        assert [cast(Any, seat.process).kill.call_count for seat in (old, new, slow)] == [1, 0, 1]


@pytest.fixture
def shortage(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Supervisor, list[str]]]:
    """A supervisor on a system without processes to give, and the roles that it then has processes for."""
    roles: list[str] = []
    ends: list[socket.socket] = []

    def spawn(role: str) -> tuple[Any, socket.socket]:
        if not roles:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        roles.append(role)
        ours, theirs = socketpair()
        ends.extend((ours, theirs))
        return Mock(), ours

    monkeypatch.setattr("serve.fronts.supervisor.spawn", spawn)
    with socket.create_server(("127.0.0.1", 0)) as claim:
        yield Supervisor(Path(), Settings(fronts=1), claim, lambda: None), roles
    for end in ends:
        end.close()


def test_a_process_that_cannot_be_started_is_tried_again(
    shortage: tuple[Supervisor, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor, roles = shortage
    for _ in range(3):
        for seat in supervisor._seats:
            seat.due = 0.0
        supervisor._start_what_is_due()
    assert [seat.deaths for seat in supervisor._seats] == [3, 3]
    assert all(seat.process is None and seat.due > time.monotonic() - 60 for seat in supervisor._seats)
    assert (
        "the front cannot be started ([Errno 11] Resource temporarily unavailable); tried again in 1 s" in caplog.text
    )
    roles.append("the system has some")
    for seat in supervisor._seats:
        seat.due = 0.0
    supervisor._start_what_is_due()
    assert roles[1:] == ["engine", "front"]
    assert all(seat.control is not None for seat in supervisor._seats)


def test_a_process_that_cannot_be_connected_is_replaced(
    shortage: tuple[Supervisor, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor, roles = shortage
    roles.append("the system has some")
    supervisor._start(supervisor._engine)
    [front] = supervisor._fronts
    with monkeypatch.context() as patch:
        refused = Mock(side_effect=OSError(errno.EMFILE, "Too many open files"))
        patch.setattr("serve.fronts.supervisor.socket.socketpair", refused)
        supervisor._start(front)
    assert front.process is not None
    cast(Any, front.process).kill.assert_called_once_with()
    cast(Any, supervisor._engine.process).kill.assert_not_called()


def test_pauses_stay_finite_however_often_a_process_dies() -> None:
    assert [Seat("front", deaths=n).pause_s() for n in (0, 1, 2, 3, 2000)] == [0.0, 0.0, 0.5, 1.0, 30.0]
