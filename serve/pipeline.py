"""The decode stage: threads that turn bytes into pixels, hand them to the model's batcher, and lend it a hand.

A picture goes from the event loop to a decode thread and back, with one wake-up of the loop per batch; where a model
has engine threads of its own, it passes through one of those. A picture that cannot be decoded comes back from here,
alone, with its error.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from serve import jpeg
from serve.batcher import Batcher
from serve.decoding import ImageLimits, decode, open_large_images
from serve.errors import RequestError, internal_error
from serve.ticket import Ticket
from serve.turns import Turns
from skipvit import resampling
from skipvit.transforms import Preprocessing

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """One encoded picture, the ticket that carries it, and where its pixels go.

    Without ``preprocessing``, the ticket has its pixels already and passes through in its turn.
    """

    ticket: Ticket
    data: bytes
    name: str | None
    preprocessing: Preprocessing | None
    batcher: Batcher
    place: int = 0
    """How many pictures of the same request come before it."""


class DecodeStage:
    """``threads`` threads that decode jobs, and help those of ``batchers`` that have no threads of their own.

    Models and requests take turns; see ``serve.turns``.
    """

    def __init__(self, threads: int, limits: ImageLimits, batchers: Callable[[], Iterable[Batcher]] = tuple) -> None:
        self._batchers = batchers
        self._limits = limits
        self._deliver: Callable[[Callable[[], None]], object] = _not_started
        self._jobs: Turns[Job] = Turns()
        self._threads = [threading.Thread(target=self._work, name=f"decode-{i}", daemon=True) for i in range(threads)]

    def start(self, deliver: Callable[[Callable[[], None]], object]) -> None:
        """Starts the threads; ``deliver`` runs what finishes a ticket where its ``on_done`` belongs."""
        self._deliver = deliver
        open_large_images(self._limits)
        for part in (jpeg, resampling):
            logger.info("%s", part.description())  # which also loads it, before the first picture waits for it
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Pictures not yet begun."""
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Queues a picture; its batcher knows from now on that it is coming."""
        job.batcher.expect()
        self._jobs.put(job, job.batcher.name, job.ticket.priority, job.place)

    def close(self) -> None:
        """Ends the threads after what is queued."""
        self._jobs.close(len(self._threads))
        for thread in self._threads:
            thread.join(5.0)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.ticket.abandoned:
                job.batcher.forget()
            else:
                self._decode(job)
                self._jobs.charge(job.batcher.name, job.ticket.decode_s)
            self._help()

    def _help(self) -> None:
        """Lends hands, a batch at a time, to the model that had least of the threads, until nothing is due."""
        left = [batcher for batcher in self._batchers() if not batcher.has_threads and batcher.waiting]
        while left:
            batcher = left[0] if len(left) == 1 else min(left, key=lambda batcher: self._jobs.spent_s(batcher.name))
            started = time.perf_counter()
            if batcher.lend_hand(self._busy):
                self._jobs.charge(batcher.name, time.perf_counter() - started)
            else:
                left.remove(batcher)

    def _busy(self) -> bool:
        return len(self._jobs) > 0

    def _decode(self, job: Job) -> None:
        ticket = job.ticket
        started = ticket.begin()
        try:
            if job.preprocessing is not None:
                ticket.pixels = decode(job.data, job.preprocessing, self._limits, job.name)
        except RequestError as error:
            ticket.error = error
        except Exception as error:  # our own mistake fails one picture, never the thread that serves the rest
            logger.error("decoding failed", exc_info=error)
            ticket.error = internal_error()
        ticket.decode_s = time.perf_counter() - started
        self._hand_over(job)

    def _hand_over(self, job: Job) -> None:
        if job.ticket.error is None:
            job.batcher.put(job.ticket)
            return
        job.batcher.forget()
        self._deliver(lambda: job.ticket.on_done(job.ticket))


def _not_started(_callback: Callable[[], None]) -> None:
    raise RuntimeError("the decode stage was not started")
