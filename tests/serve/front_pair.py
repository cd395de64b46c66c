"""Fronts and an engine in one thread, over real pairs of sockets and real shared memory, one step at a time."""

import select
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from serve.batcher import call_now
from serve.engines.engine import OnnxCpuEngine
from serve.fronts.desk import Desk
from serve.fronts.link import FrontLink
from serve.fronts.offer import Offer, row_of
from serve.fronts.wire import ModelRow
from serve.models.served_model import ServedModel
from serve.settings import Settings
from serve.ticket import Ticket
from serve.urgency import Priority
from skipvit.artifacts import read_entry
from tests.serve.servers import CLASSES


class ScriptedBatcher:
    """What waits for the engine, which takes it when the test says so; it answers with a row of the first pixel."""

    max_batch = 4
    max_wait_s = 0.001

    def __init__(self) -> None:
        self.waiting: list[Ticket] = []
        self.ran: list[int] = []
        self.expected = 0

    def expect(self) -> None:
        self.expected += 1

    def put(self, ticket: Ticket) -> None:
        self.expected -= 1
        self.waiting.append(ticket)

    def take(self, place: int = 0) -> None:
        """Runs one of those that wait, or drops it."""
        ticket = self.waiting.pop(place % len(self.waiting))
        if ticket.abandoned:
            ticket.drop()
            return
        ticket.begin()
        assert ticket.pixels is not None
        value = int(ticket.pixels[0, 0, 0])
        assert (ticket.pixels == value).all()
        self.ran.append(value)
        ticket.result, ticket.batch_size, ticket.infer_s = np.full(CLASSES, value, np.float32), 1, 0.25
        ticket.on_done(ticket)


def row_of_shades(root: Path) -> ModelRow:
    """The tiny classifier, as the engine's process describes it."""
    entry = read_entry(root, "shades")
    return row_of(ServedModel(entry, OnnxCpuEngine.from_entry(entry), Settings(), CLASSES))


class Pair:
    """A front of so many slots, connected to an engine."""

    def __init__(
        self, row: ModelRow, batcher: Any, slots: int, spare: int = 0, others: Sequence[ModelRow] = ()
    ) -> None:
        ours, theirs = socket.socketpair()
        self._sockets = ours, theirs
        model = cast(ServedModel, SimpleNamespace(batcher=batcher, tiles_ahead=3, alone_s=0.1, row_s=0.1))
        offer = Offer(0, [model] * (1 + len(others)), {}, {}, [row, *others])
        self.desk = Desk(theirs, offer, threading.Event(), threading.local())
        self.link = FrontLink(ours, slots, spare)
        self.desk.greet()
        self.link.read_table()
        self.link.share_ring()
        self.desk.receive_ring()
        self.desk.open()
        self.link.open()
        self.link.adopt()
        self.desk.hear_adopted()
        self.tickets: list[Ticket] = []
        self.done: list[Ticket] = []

    def submit(self, value: int, model: int = 0, priority: Priority = Priority.NORMAL) -> Ticket:
        """Sends a picture of one colour."""
        ticket = Ticket(self.done.append, priority)
        ticket.pixels = np.full((8, 8, 3), value, np.uint8)
        self.tickets.append(ticket)
        self.link.submit(model, ticket, call_now)
        return ticket

    def engine_reads(self) -> None:
        """The engine's process takes what this front sent, if there is anything."""
        if not self.desk.gone and _readable(self._sockets[1]):
            self.desk.step()

    def front_reads(self) -> None:
        """The front takes the answers that are there, if any, or notices that there will be none."""
        if self.link.state == "open" and _readable(self._sockets[0]) and not self.link.step():
            self.link.lose()

    def front_dies(self) -> None:
        self.link.close()
        self.desk.gone = True

    def engine_dies(self) -> None:
        self._sockets[1].shutdown(socket.SHUT_RDWR)
        self.front_reads()

    def close(self) -> None:
        for one in self._sockets:
            one.close()


def _readable(connection: socket.socket) -> bool:
    return connection.fileno() >= 0 and bool(select.select([connection], [], [], 0)[0])
