"""A front's end of its connection to the engine's process: rows go into slots, and answers come back out of them.

A link is for what that process serves when it is made: after a change the front gets another, and hangs up on this one
when its last request is answered. When the process ends, everything in flight is refused at once, and so is whatever
comes after; the next process gets a link of its own.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count
from typing import Literal

import numpy as np

from serve.batcher import call_now
from serve.fronts.outbox import Outbox
from serve.fronts.ring import Ring, aligned
from serve.fronts.sent import Deliver, Sent, deliver_all, refuse
from serve.fronts.tensor_link import TensorLink
from serve.fronts.wire import (
    ADOPTED,
    DONE,
    FAILED,
    OK,
    SETUP,
    SUBMIT,
    FailedRow,
    ForeignRow,
    ModelRow,
    Records,
    Table,
    Warm,
    error_of,
    gone,
    is_ours,
    read_document,
)
from serve.ticket import Ticket
from serve.turns import Waiting
from skipvit.manifest import Task

logger = logging.getLogger(__name__)

_numbers = count()
LinkState = Literal["new", "warming", "open", "lost"]


class _Lane:
    """Slots for one kind of rows, and the tickets that wait for one of them, by priority and age."""

    def __init__(self, slots: Sequence[int]) -> None:
        self.free = list(slots)  # the one used last is taken first: its pages are in the cache
        self.waiting = Waiting()


class FrontLink:
    """One connection to the engine's process. ``submit`` may be called from any thread.

    ``spare`` of the slots are for tiles, and the others for what classifiers run, which never waits for a tile: there
    may be many more tiles than slots, and each takes as long as a hundred pictures. With none to spare all share all.
    """

    def __init__(self, connection: socket.socket, slots: int, spare: int = 0) -> None:
        self.number = next(_numbers)  # a later one is newer
        self.state: LinkState = "new"
        self.table: Sequence[ModelRow | ForeignRow] = ()
        self.failed: Sequence[FailedRow] = ()
        self.groups: Mapping[str, Task] = {}
        self.warm: Warm | None = None
        self.tensors: TensorLink | None = None
        self._connection = connection
        self._count = slots
        self._ring: Ring | None = None
        self._lock = threading.Lock()
        self._pictures = _Lane(range(spare, slots))
        self._tiles = _Lane(range(spare)) if spare else self._pictures
        self._in_flight: dict[int, Sent] = {}
        self._waiting: dict[Ticket, Sent] = {}
        self._outbox = Outbox(connection)
        self._done = Records(connection, DONE)

    # --- connecting ---

    def read_table(self) -> None:
        """Waits until the engine's process has opened its models. Raises EOFError or OSError if it ended instead."""
        table = Table.model_validate_json(read_document(self._connection))
        self.table, self.failed, self.groups = table.models, table.failed, table.groups
        self.state = "warming"

    def run(self, opened: Callable[[], None]) -> None:
        """Waits until the models are warm, calls ``opened``, and finishes tickets until the link is lost."""
        try:
            self.share_ring()
            self.open()
            if self.tensors is not None:
                threading.Thread(target=self._run_tensors, args=(self.tensors,), name="tensors", daemon=True).start()
            opened()
            while self.step():
                pass
        except (EOFError, OSError) as error:
            logger.info("the engine's process ended before it was warm: %s", str(error) or type(error).__name__)
        finally:
            self.lose()

    def _run_tensors(self, tensors: TensorLink) -> None:
        tensors.run()
        self.close()  # one is of no use without the other

    def share_ring(self) -> None:
        """Makes the slots, as large as the largest model of the table needs them, and passes them on.

        So it does with a way for tensors, if there are models that need one.
        """
        ring = Ring.create(self._count, max((row.slot_bytes for row in self.table if is_ours(row)), default=1))
        fds = [ring.fd]
        with ExitStack() as stack:
            if not all(map(is_ours, self.table)):
                ours, theirs = socket.socketpair()
                stack.enter_context(theirs)
                self.tensors = TensorLink(ours)
                fds.append(theirs.fileno())
            socket.send_fds(self._connection, [SETUP.pack(ring.count, ring.slot_bytes)], fds)
        ring.close()
        self._ring = ring

    def open(self) -> None:
        """Waits until the models are warm; from then on tickets may be submitted."""
        self.warm = Warm.model_validate_json(read_document(self._connection))
        self.state = "open"

    def adopt(self) -> None:
        """Says that requests are answered by this link from now on."""
        self._outbox.post(ADOPTED)

    def step(self) -> bool:
        """Finishes the tickets that one read brings; false when the engine's process is gone."""
        done = self._done.read()
        self._finish(done)
        return bool(done)

    def close(self) -> None:
        """Hangs up; ``run`` ends, and the engine forgets what it was sent."""
        with suppress(OSError):  # it was lost already
            self._connection.shutdown(socket.SHUT_RDWR)

    # --- tickets ---

    @property
    def free(self) -> int:
        """Slots that are not in use."""
        return sum(len(lane.free) for lane in {self._pictures, self._tiles})

    @property
    def alive(self) -> bool:
        """Whether tickets are answered by an engine."""
        return self.state == "open"

    @property
    def unsent(self) -> int:
        """Tickets that wait for a slot."""
        return len(self._waiting)

    def waiting(self, model: int) -> int:
        """Tickets of a model that have been sent or wait for a slot."""
        if self.tensors is not None and not is_ours(self.table[model]):
            return self.tensors.waiting(model)
        with self._lock:
            return sum(sent.model == model for sent in (*self._in_flight.values(), *self._waiting.values()))

    def _lane(self, model: int) -> _Lane:
        return self._pictures if self._row(model).manifest.task == "classification" else self._tiles

    def _row(self, model: int) -> ModelRow:
        row = self.table[model]
        assert is_ours(row), "tensors go by a way of their own"
        return row

    def submit(self, model: int, ticket: Ticket, deliver: Deliver) -> None:
        """Sends a row, or keeps it until a slot is free; tensors go as they are."""
        if not is_ours(self.table[model]):
            self._submit_tensors(model, ticket)
            return
        sent = Sent(model, ticket, deliver)
        with self._lock:
            refused = self.state != "open"
            slot = None
            if not refused:
                lane = self._lane(model)
                if lane.free:
                    slot = lane.free.pop()
                    self._in_flight[slot] = sent
                else:
                    self._waiting[ticket] = sent
                    lane.waiting.append(ticket)
        if refused:
            refuse([sent])
        elif slot is not None:
            self._send(slot, sent)

    def _submit_tensors(self, model: int, ticket: Ticket) -> None:
        if self.tensors is None or self.state != "open":
            refuse([Sent(model, ticket, call_now)])
        else:
            self.tensors.submit(model, ticket)

    def _send(self, slot: int, sent: Sent) -> None:
        """Fills a slot that is ours and tells the engine."""
        ring, ticket = self._ring, sent.ticket
        pixels = ticket.pixels
        assert ring is not None, "an open link has a ring"
        if pixels is None:  # the link was lost in between, and the ticket refused
            return
        ring.renew(slot)
        ticket.on_abandoned = partial(self._abandon, slot, ticket)
        if ticket.abandoned:  # before it could pass that on
            ring.abandon(slot)
        row = ring.slot(slot)[: pixels.nbytes].reshape(pixels.shape)
        row[...] = pixels
        self._outbox.post(SUBMIT.pack(slot, sent.model, ticket.priority))

    def _abandon(self, slot: int, ticket: Ticket) -> None:
        with self._lock:  # the slot may be another's by now
            sent = self._in_flight.get(slot)
            if self._ring is not None and sent is not None and sent.ticket is ticket:
                self._ring.abandon(slot)

    # --- answers ---

    def _finish(self, done: Sequence[tuple[int, ...]]) -> None:
        finished: list[Sent] = []
        for slot, outcome, batch_size, infer_s, length in done:
            sent = self._in_flight[slot]  # only this thread takes tickets out
            self._read(slot, sent, outcome, batch_size, infer_s, length)
            self._reuse(slot)
            if outcome in (OK, FAILED) or not sent.ticket.abandoned:
                finished.append(sent)
        deliver_all(finished)

    def _read(self, slot: int, sent: Sent, outcome: int, batch_size: int, infer_s: float, length: int) -> None:
        ticket, model = sent.ticket, self._row(sent.model)
        assert self._ring is not None, "an answer came out of it"
        answer = self._ring.slot(slot)[aligned(model.input_bytes) :]
        ticket.queue_s += max(0.0, time.perf_counter() - ticket.waiting_since - infer_s)
        ticket.infer_s, ticket.batch_size = infer_s, batch_size
        if outcome == OK:
            row = answer[: model.result_bytes].view(np.dtype(model.result_type))
            ticket.answer(row.reshape(model.result_shape).copy())
        elif outcome == FAILED:
            ticket.error = error_of(answer[:length].tobytes())
        else:
            ticket.error = gone()

    def _reuse(self, slot: int) -> None:
        """Gives a slot to whoever waits for one."""
        following = None
        with self._lock:
            done = self._in_flight.pop(slot)
            done.ticket.on_abandoned = None
            lane = self._lane(done.model)
            while lane.waiting and following is None:
                sent = self._waiting.pop(lane.waiting.popleft())
                following = None if sent.ticket.abandoned else sent
            if following is None:
                lane.free.append(slot)
            else:
                self._in_flight[slot] = following
        if following is not None:
            self._send(slot, following)

    def lose(self) -> None:
        """Refuses everything in flight."""
        with self._lock:
            self.state = "lost"
            stranded = [*self._in_flight.values(), *self._waiting.values()]
            self._in_flight.clear()
            self._waiting.clear()
        refuse(stranded)
        if self.tensors is not None:
            self.tensors.lose()
        self._connection.close()
