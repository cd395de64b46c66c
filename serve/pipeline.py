"""The decode stage: threads that turn bytes into pixels and hand them straight to the model's batcher.

A picture goes from the event loop to a decode thread, to an engine thread, and back to the loop: two hand-overs, one
wake-up of the loop per batch. A picture that cannot be decoded comes back from here, alone, with its error.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from serve.batcher import Batcher, Ticket
from serve.decoding import ImageLimits, decode, set_up_pillow
from serve.errors import RequestError, internal_error
from skipvit.transforms import Preprocessing


@dataclass(frozen=True, slots=True)
class Job:
    """One encoded picture, the ticket that carries it, and where its pixels go."""

    ticket: Ticket
    data: bytes
    name: str | None
    preprocessing: Preprocessing
    batcher: Batcher


class DecodeStage:
    """``threads`` threads that decode jobs in the order they came."""

    def __init__(self, threads: int, limits: ImageLimits) -> None:
        self._limits = limits
        self._deliver: Callable[[Callable[[], None]], object] = _not_started
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"decode-{i}", daemon=True) for i in range(threads)]

    def start(self, deliver: Callable[[Callable[[], None]], object]) -> None:
        """Starts the threads; ``deliver`` runs what finishes a ticket where its ``on_done`` belongs."""
        self._deliver = deliver
        set_up_pillow(len(self._threads), self._limits)
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Pictures not yet begun."""
        return self._jobs.qsize()

    def submit(self, job: Job) -> None:
        """Queues a picture; its batcher knows from now on that it is coming."""
        job.batcher.expect()
        self._jobs.put(job)

    def close(self) -> None:
        """Ends the threads after what is queued."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(5.0)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            ticket = job.ticket
            if ticket.abandoned:
                job.batcher.forget()
                continue
            started = ticket.begin()
            try:
                ticket.pixels = decode(job.data, job.preprocessing, self._limits, job.name)
            except RequestError as error:
                ticket.error = error
            except BaseException:
                ticket.error = internal_error()
                raise
            finally:
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
