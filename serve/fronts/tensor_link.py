"""A front's end of the way for tensors: requests for models that are not ours, beside the slots of pictures.

A request goes as a parcel of its own, as large as its tensors are, and so does its answer.
"""

import logging
import os
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from itertools import count
from typing import NamedTuple

from serve.errors import RequestError, internal_error
from serve.foreign.engine import TensorRequest
from serve.fronts.control import NUMBER, Control, Kind, Message
from serve.fronts.parcel import packed, unpacked
from serve.fronts.wire import ANSWER, SUBMIT, error_of, gone
from serve.ticket import Ticket

logger = logging.getLogger(__name__)


class _Sent(NamedTuple):
    model: int
    ticket: Ticket
    request: TensorRequest


class TensorLink:
    """``submit`` may be called from any thread; tickets are finished in the thread that ``run`` is called in."""

    def __init__(self, connection: socket.socket) -> None:
        self._control = Control(connection)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._numbers = count()
        self._in_flight: dict[int, _Sent] = {}
        self._lost = False

    def waiting(self, model: int) -> int:
        """Requests for a model that have been sent and not answered."""
        with self._lock:
            return sum(sent.model == model for sent in self._in_flight.values())

    def submit(self, model: int, ticket: Ticket) -> None:
        """Sends a request, whose tensors are not kept here."""
        request: TensorRequest = ticket.pixels
        with self._lock:
            number = next(self._numbers) % (1 << 32)
            lost = self._lost
            if not lost:
                self._in_flight[number] = _Sent(model, ticket, request)
        if lost:
            _finish(ticket, gone())
            return
        ticket.on_abandoned = partial(self._withdraw, number)
        try:
            fd = packed(request.rows, request.inputs)
            request.inputs = {}
            try:
                self._send(Kind.TENSORS, SUBMIT.pack(number, model, ticket.priority), (fd,))
            finally:
                os.close(fd)
        except Exception as error:  # whatever it is, such as no memory or a lost link, the thread has others to serve
            if self._take(number) is not None:
                logger.error("a request could not be sent", exc_info=error)
                _finish(ticket, internal_error())
        if ticket.abandoned:  # before it could pass that on
            self._withdraw(number)

    def _send(self, kind: Kind, body: bytes, fds: tuple[int, ...] = ()) -> None:
        with self._sending:
            self._control.send(kind, body, fds)

    def _withdraw(self, number: int) -> None:
        if self._take(number) is not None:
            with suppress(OSError):
                self._send(Kind.WITHDRAW, NUMBER.pack(number))

    def _take(self, number: int) -> _Sent | None:
        with self._lock:
            return self._in_flight.pop(number, None)

    def run(self) -> None:
        """Finishes tickets until the link is lost."""
        try:
            while True:
                for message in self._control.receive():
                    self._read(message)
        except (EOFError, OSError):
            self.lose()

    def _read(self, message: Message) -> None:
        number, batch_size, shared, infer_s = ANSWER.unpack_from(message.body)
        sent = self._take(number)
        if sent is None:  # nobody waits for it any more
            if message.fd >= 0:
                os.close(message.fd)
            return
        ticket = sent.ticket
        ticket.queue_s += max(0.0, time.perf_counter() - ticket.waiting_since - infer_s)
        ticket.infer_s, ticket.batch_size, sent.request.size = infer_s, batch_size, shared
        if message.kind != Kind.TENSORS:
            _finish(ticket, error_of(message.body[ANSWER.size :]))
            return
        try:
            ticket.result = list(unpacked(message.fd)[1].values())
        except Exception as error:  # such as no memory; other answers may be smaller
            logger.error("an answer could not be read", exc_info=error)
            _finish(ticket, internal_error())
        else:
            _finish(ticket)

    def close(self) -> None:
        """Hangs up; ``run`` ends."""
        self._control.hang_up()

    def lose(self) -> None:
        """Refuses everything in flight."""
        with self._lock:
            self._lost = True
            stranded = list(self._in_flight.values())
            self._in_flight.clear()
        self.close()
        for sent in stranded:
            _finish(sent.ticket, gone())


def _finish(ticket: Ticket, error: RequestError | None = None) -> None:
    ticket.on_abandoned = None
    ticket.error = error
    ticket.pixels = None
    with suppress(RuntimeError):  # the event loop is closed: nobody is left to be told
        ticket.on_done(ticket)
