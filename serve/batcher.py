"""The work-conserving batcher: whoever is free takes what waits; nothing waits for a window.

The decode stage announces a picture with ``expect`` and hands its ticket over with ``put``, or withdraws it with
``forget``. Batches are run in one of two ways:

- ``threads`` engine threads take them, for an engine that computes elsewhere, such as on a GPU. An idle one pauses only
  while more pictures are known to be decoding and the batch has room, and no longer than ``max_wait_s``.
- With no threads of its own, whoever decodes lends a hand with ``lend_hand``: on a CPU, where both compete for the same
  cores, handing a picture to another thread costs time and gains none. While more is to be decoded, decoding goes
  first, until a batch is full or its first picture has waited ``max_wait_s``.

Either way a request that comes alone is never delayed. One exception fails one picture: a batch that raises is run
again one by one. An engine that kills its thread is out of service, and everything that waits for it is told so.

A model may have several engines, each with ``threads`` threads of its own; all take from one queue, whose order is that
of ``serve.turns``.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from serve.batch_run import answer, rows_of
from serve.engines.engine import Engine, Rows, RowsEngine
from serve.errors import NotReady
from serve.ticket import Ticket
from serve.turns import Waiting

logger = logging.getLogger(__name__)

Reason = Literal["full", "idle", "waited"]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What one run of the engine did, for metrics."""

    size: int
    reason: Reason


class Batcher:
    """Queues tickets for one model and runs them in batches, in its engines' threads or in those that lend a hand.

    Args:
        threads: of each engine.
        others: more engines of the same model; with them ``threads`` is at least 1.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_batch: int,
        max_wait_s: float,
        threads: int = 0,
        name: str = "model",
        others: Sequence[Engine] = (),
    ) -> None:
        self.max_batch = max_batch
        self.max_wait_s = max_wait_s
        self.name = name
        self._engine = engine
        self._takes_rows = isinstance(engine, RowsEngine)  # a question that takes long to answer
        self._threads = [
            threading.Thread(target=self._serve, args=(one,), name=f"engine-{name}-{k}-{i}", daemon=True)
            for k, one in enumerate((engine, *others))
            for i in range(threads)
        ]
        self._changed = threading.Condition()
        self._waiting = Waiting()
        self._upcoming = 0
        self._idle = 0
        self._hands = 0  # threads that lend one and have taken a batch
        self._closing = False
        self._death: BaseException | None = None
        self._deliver: Callable[[Callable[[], None]], object] = call_now
        self._report: Callable[[BatchReport], None] = _ignore

    def start(
        self,
        deliver: Callable[[Callable[[], None]], object],
        report: Callable[[BatchReport], None] | None = None,
    ) -> None:
        """Starts the engine threads; ``deliver`` is called once per batch, with what finishes its tickets."""
        self._deliver = deliver
        self._report = report or _ignore
        for thread in self._threads:
            thread.start()

    @property
    def has_threads(self) -> bool:
        """Whether it runs its batches itself, or needs others to lend a hand."""
        return bool(self._threads)

    @property
    def alive(self) -> bool:
        """Whether the engine is in service, with every thread of its own running."""
        return self._death is None and all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Pictures decoded and not yet taken."""
        return len(self._waiting)

    def expect(self) -> None:
        """Announces a picture that has begun to be decoded."""
        with self._changed:
            self._upcoming += 1

    def forget(self) -> None:
        """Withdraws an announced picture, which could not be decoded or is no longer wanted."""
        with self._changed:
            self._upcoming -= 1
            if not self._upcoming and self._waiting:
                self._changed.notify()  # nobody is worth waiting for any more

    def put(self, ticket: Ticket) -> None:
        """Hands over an announced picture, decoded into ``ticket.pixels``."""
        ticket.waiting_since = time.perf_counter()
        with self._changed:
            self._upcoming -= 1
            dead = self._death is not None or self._closing
            if not dead:
                self._waiting.append(ticket)
                self._changed.notify()
        if dead:
            ticket.error = _out_of_service(self.name)
            self._finish([ticket])

    def close(self, timeout_s: float = 5.0) -> bool:
        """Takes nothing more, has what waits finished, and waits for all that run the engine.

        Returns whether they have ended. If so, nobody calls the engine again, and it may be closed.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout_s
        while not self._threads and self.lend_hand(lambda: False):
            pass
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            left_s = max(0.0, deadline - time.monotonic())
            rested = self._changed.wait_for(lambda: not self._hands and not self._waiting, left_s)
        return rested and not any(thread.is_alive() for thread in self._threads)

    def lend_hand(self, busy: Callable[[], bool]) -> bool:
        """Runs one batch in the calling thread, if one is due: a full or overdue one while ``busy()``, otherwise any.

        Returns whether there was one.
        """
        try:
            batch = self._due(busy())
            if batch is None:
                return False
            tickets, reason = batch
            try:
                self._run(tickets, self._engine)
            finally:
                self._withdraw_hand()
            self._report(BatchReport(len(tickets), reason))
        except BaseException as error:  # the engine is lost, the thread that lent a hand is not
            self._die(error)
        return True

    def _due(self, busy: bool) -> tuple[list[Ticket], Reason] | None:
        if not self._waiting:  # the usual case when another thread was faster; a look without the lock will do
            return None
        with self._changed:
            if len(self._waiting) >= self.max_batch:
                reason: Reason = "full"
            elif not busy:
                reason = "idle"
            elif self._waiting and time.perf_counter() - self._waiting.oldest_since >= self.max_wait_s:
                reason = "waited"
            else:
                return None
            batch = self._pop(self.max_batch)
            self._hands += bool(batch)
        return (batch, reason) if batch else None

    def _withdraw_hand(self) -> None:
        with self._changed:
            self._hands -= 1
            if self._closing:
                self._changed.notify_all()

    # --- engine threads ---

    def _serve(self, engine: Engine) -> None:
        try:
            while batch := self._take():
                tickets, reason = batch
                self._run(tickets, engine)
                self._report(BatchReport(len(tickets), reason))
        except BaseException as error:  # a thread must not die unseen, whatever killed it
            self._die(error)

    def _take(self) -> tuple[list[Ticket], Reason] | None:
        """Blocks until there is work; returns a batch and why it was closed, or None when there will be no more."""
        with self._changed:
            while True:
                self._idle += 1
                while not self._waiting and not self._closing and self._death is None:
                    self._changed.wait()
                reason = self._wait_for_company()
                # Free engines share what waits; otherwise one would work it off alone while the others watch.
                share = min(self.max_batch, -(-len(self._waiting) // self._idle))
                self._idle -= 1
                batch = self._pop(share)
                if batch:
                    return batch, reason
                if self._closing or self._death is not None:
                    return None

    def _pop(self, size: int) -> list[Ticket]:
        """Takes up to ``size`` tickets that somebody still wants."""
        batch: list[Ticket] = []
        while self._waiting and len(batch) < size:
            ticket = self._waiting.popleft()
            if ticket.abandoned:
                ticket.drop()
            else:
                batch.append(ticket)
        if self._waiting:
            self._changed.notify()  # the rest is for the next free engine, which may not have been woken yet
        return batch

    def _wait_for_company(self) -> Reason:
        deadline = 0.0
        while len(self._waiting) < self.max_batch:
            if not self._upcoming or not self.max_wait_s or self._closing or not self._waiting:
                return "waited" if deadline else "idle"
            now = time.monotonic()
            deadline = deadline or now + self.max_wait_s
            if now >= deadline:
                return "waited"
            self._changed.wait(deadline - now)
        return "full"

    def _run(self, batch: list[Ticket], engine: Engine) -> None:
        try:
            answer(batch, lambda tickets: self._rows(tickets, engine), self.name)
        except BaseException:  # of the batch, or of one picture of it alone
            with self._changed:
                for ticket in batch:  # this thread dies of it; _die answers for all that waits
                    self._waiting.append(ticket)
            raise
        self._finish(batch)

    def _rows(self, batch: list[Ticket], engine: Engine) -> Rows:
        return rows_of(batch, engine, takes_rows=self._takes_rows)

    def _finish(self, tickets: list[Ticket]) -> None:
        """Wakes the receiving side once for all tickets."""

        def finish() -> None:
            for ticket in tickets:
                ticket.pixels = None
                ticket.on_done(ticket)

        self._deliver(finish)

    def _die(self, error: BaseException) -> None:
        logger.critical("an engine thread of model %s died; the model is out of service", self.name, exc_info=error)
        with self._changed:
            self._death = error
            stranded = [self._waiting.popleft() for _ in range(len(self._waiting))]
            self._changed.notify_all()
        for ticket in stranded:
            ticket.error = _out_of_service(self.name)
        with suppress(RuntimeError):  # the event loop is closed: nobody is left to be told
            self._finish(stranded)


def _out_of_service(name: str) -> NotReady:
    return NotReady(f"model {name!r} is out of service: its engine stopped", "try again: it is being started again")


def call_now(callback: Callable[[], None]) -> None:
    """A ``deliver`` that finishes tickets in the thread that ran them."""
    callback()


def _ignore(_report: BatchReport) -> None:
    pass
