"""The engine's end of a connection to a front: rows out of their slots into the batchers, and results back.

Each desk has a thread that reads what its front submits. What becomes of a row is noted by the engine's threads, one
message for each batch and front.
"""

import logging
import socket
import threading
from collections.abc import Callable, Sequence

import numpy as np

from serve.errors import EngineFailed
from serve.fronts.offer import Offer
from serve.fronts.outbox import Outbox
from serve.fronts.ring import Ring, aligned
from serve.fronts.tensor_desk import TensorDesk
from serve.fronts.wire import (
    ADOPTED,
    DONE,
    DROPPED,
    FAILED,
    OK,
    SETUP,
    SUBMIT,
    ModelRow,
    Records,
    error_text,
    is_ours,
    read_exactly,
    send_document,
)
from serve.ticket import Ticket
from serve.urgency import Priority

logger = logging.getLogger(__name__)


class Desk:
    """One connection of a front, as the engine's process sees it.

    ``told`` is called in its thread when the front has changed over to what it was offered, and when it is gone.
    """

    def __init__(
        self,
        connection: socket.socket,
        offer: Offer,
        warm: threading.Event,
        together: threading.local,
        told: "Callable[[Desk], object]" = lambda _: None,
    ) -> None:
        self.offer = offer
        self.adopted = self.gone = False
        self.outbox = Outbox(connection)
        self._connection = connection
        self._submitted = Records(connection, SUBMIT)
        self._warm = warm
        self._together = together
        self._told = told

    def serve(self) -> None:
        """Takes rows until the front hangs up; what it sent and no engine has taken is then dropped."""
        try:
            self.greet()
            self.receive_ring()
            self._warm.wait()
            self.open()
            self.hear_adopted()
            self._told(self)
            while self.step():
                pass
        except (EOFError, OSError) as error:
            logger.info("a front hung up before it was served: %s", str(error) or type(error).__name__)
        finally:
            self.gone = True
            self._connection.close()
            self._told(self)

    def greet(self) -> None:
        """Sends the table of the models."""
        send_document(self._connection, self.offer.table())

    def open(self) -> None:
        """Says that the models are warm."""
        send_document(self._connection, self.offer.warm())

    def hear_adopted(self) -> None:
        """Waits until the front has changed over. Raises EOFError if it is gone."""
        read_exactly(self._connection, len(ADOPTED))
        self.adopted = True

    def step(self) -> bool:
        """Takes the rows that one read brings; false when the front is gone."""
        submitted = self._submitted.read()
        self._put(submitted)
        self.gone = self.gone or not submitted
        return not self.gone

    def receive_ring(self) -> None:
        """Takes the slots that the front shares, and its way for tensors. Raises EOFError if it shares none."""
        data, fds, _, _ = socket.recv_fds(self._connection, SETUP.size, 2, socket.MSG_CMSG_CLOEXEC)
        if not fds:
            raise EOFError("it shared no memory")
        self.ring = Ring(fds[0], *SETUP.unpack(data))
        self.ring.close()
        for fd in fds[1:]:
            tensors = TensorDesk(socket.socket(fileno=fd), self.offer.models)
            threading.Thread(target=tensors.serve, name=f"front-tensors-{fd}", daemon=True).start()

    def _put(self, submitted: Sequence[tuple[int, ...]]) -> None:
        tickets = [
            (self.offer.models[model], SlotTicket(self, slot, self._row(model), Priority(priority)))
            for slot, model, priority in submitted
        ]
        for model, _ in tickets:  # all at once: the first of them may then wait for the others
            model.batcher.expect()
        for model, ticket in tickets:
            model.batcher.put(ticket)

    def _row(self, model: int) -> ModelRow:
        row = self.offer.rows[model]
        assert is_ours(row), "tensors go by a way of their own"
        return row

    def tell(self, record: bytes) -> None:
        """Passes on what became of a row: with its batch if that is being delivered, else at once."""
        records = getattr(self._together, "records", None)
        if records is None:
            self.outbox.post(record)
        else:
            records[self] = records.get(self, b"") + record


class SlotTicket(Ticket):
    """A ticket whose row lies in a front's slot, and whose result goes there. The front is told exactly once."""

    __slots__ = ("_desk", "_model", "_slot", "_told")

    def __init__(self, desk: Desk, slot: int, model: ModelRow, priority: Priority) -> None:
        self._desk = desk
        self._slot = slot
        self._model = model
        self._told = False
        super().__init__(SlotTicket.finish, priority)  # type: ignore[arg-type]  # it is called with this very ticket
        self.pixels = desk.ring.slot(slot)[: model.input_bytes].reshape(model.row)

    @property
    def abandoned(self) -> bool:
        """Read from the slot: the front may have been told so since it was sent, or be gone."""
        return self._desk.gone or self._desk.ring.is_abandoned(self._slot)

    @abandoned.setter
    def abandoned(self, value: bool) -> None:
        assert not value, "a front says that in the slot"

    def drop(self) -> None:
        self._tell(DROPPED)

    def finish(self) -> None:
        """Puts the result or the error into the slot, and tells the front."""
        if self._told:
            return
        answer = self._desk.ring.slot(self._slot)[aligned(self._model.input_bytes) :]
        if self.error is None and not self._fits():
            self.error = EngineFailed("engine_failed", "the model gave a row of another size", "see the server's log")
        if self.error is not None:
            text = error_text(self.error)
            answer[: len(text)] = np.frombuffer(text, np.uint8)
            self._tell(FAILED, len(text))
            return
        assert self.result is not None, "a ticket without an error has a result"
        answer[: self.result.nbytes] = np.ascontiguousarray(self.result).reshape(-1).view(np.uint8)
        self._tell(OK)

    def _fits(self) -> bool:
        row, model = self.result, self._model
        return row is not None and (row.dtype, row.shape) == (np.dtype(model.result_type), model.result_shape)

    def _tell(self, outcome: int, length: int = 0) -> None:
        if not self._told:
            self._told = True
            self._desk.tell(DONE.pack(self._slot, outcome, self.batch_size, self.infer_s, length))
