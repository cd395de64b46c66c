"""The engine's end of the way for tensors: requests for models that are not ours, and their answers."""

import logging
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

from serve.errors import internal_error
from serve.foreign.engine import TensorRequest
from serve.foreign.model import ForeignModel
from serve.fronts.control import NUMBER, Control, Kind, Message
from serve.fronts.parcel import packed, unpacked
from serve.fronts.wire import ANSWER, SEND_BUFFER, SUBMIT, error_text
from serve.models.served_model import ServedModel
from serve.ticket import Ticket
from serve.urgency import Priority

logger = logging.getLogger(__name__)


class TensorDesk:
    """One front's requests, by the numbers that it gave them."""

    def __init__(self, connection: socket.socket, models: Sequence[ServedModel]) -> None:
        # Room for all answers that may be due: an engine that waited for one front would keep out the others.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._control = Control(connection)
        self._models = models
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._tickets: dict[int, TensorTicket] = {}

    def serve(self) -> None:
        """Takes requests until the front hangs up; runs that only it waited for are then broken off."""
        try:
            while True:
                for message in self._control.receive():
                    self._hear(message)
        except (EOFError, OSError):
            pass
        finally:
            with self._lock:
                left = list(self._tickets.values())
            for ticket in left:
                ticket.withdraw()
            with self._sending:
                self._control.close()

    def _hear(self, message: Message) -> None:
        if message.kind == Kind.WITHDRAW:
            with self._lock:
                ticket = self._tickets.get(NUMBER.unpack(message.body)[0])
            if ticket is not None:
                ticket.withdraw()
            return
        number, place, priority = SUBMIT.unpack(message.body)
        try:
            rows, inputs = unpacked(message.fd)
        except Exception as error:  # such as no memory; other requests may be smaller
            logger.error("a request could not be read", exc_info=error)
            self.answer(Kind.REFUSED, ANSWER.pack(number, 0, 0, 0.0) + error_text(internal_error()))
            return
        model = self._models[place]
        ticket = TensorTicket(self, number, model, TensorRequest(inputs, rows), Priority(priority))
        with self._lock:
            self._tickets[number] = ticket
        model.batcher.expect()
        model.batcher.put(ticket)

    def forget(self, number: int) -> None:
        """Called when a request is done with."""
        with self._lock:
            self._tickets.pop(number, None)

    def answer(self, kind: Kind, body: bytes, fds: tuple[int, ...] = ()) -> None:
        """Tells the front what became of a request. One that is gone or does not read is hung up on."""
        with self._sending, suppress(OSError):
            self._control.send(kind, body, fds)


class TensorTicket(Ticket):
    """A ticket whose request came from a front, and whose answer goes there."""

    __slots__ = ("_desk", "_model", "_number", "_request")

    def __init__(
        self, desk: TensorDesk, number: int, model: ServedModel, request: TensorRequest, priority: Priority
    ) -> None:
        super().__init__(TensorTicket.finish, priority)  # type: ignore[arg-type]  # it is called with this very ticket
        self._desk = desk
        self._number = number
        self._model = model
        self._request = request
        self.pixels = request

    def withdraw(self) -> None:
        """Nobody waits for it any more."""
        self.abandon()
        self._request.stop()

    def drop(self) -> None:
        self._desk.forget(self._number)

    def finish(self) -> None:
        """Sends the answer, or the error."""
        self._desk.forget(self._number)
        if self.abandoned:
            return
        head = ANSWER.pack(self._number, self.batch_size, self._request.size, self.infer_s)
        if self.error is None:
            try:
                self._send(head)
            except Exception as error:  # such as no memory; it must not end the engine's thread
                logger.error("an answer could not be sent", exc_info=error)
                self.error = internal_error()
        if self.error is not None:
            self._desk.answer(Kind.REFUSED, head + error_text(self.error))

    def _send(self, head: bytes) -> None:
        assert isinstance(self._model, ForeignModel), "only such models take tensors"
        names = [tensor.name for tensor in self._model.signature.outputs]
        fd = packed(self._request.rows, dict(zip(names, self.result, strict=True)))
        try:
            self._desk.answer(Kind.TENSORS, head, (fd,))
        finally:
            os.close(fd)
