"""An engine for tests of the batcher, and what puts pictures into a batcher and collects them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from serve.batcher import Batcher, BatchReport
from serve.engines.engine import Rows
from serve.ticket import Ticket
from serve.urgency import Priority
from skipvit.transforms import Pixels

POISON = 66


class FakeEngine:
    """Answers each picture with its first pixel; fails on POISON; can be held back."""

    def __init__(self, run_s: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.run_s = run_s
        self.fatal: BaseException | None = None

    def run(self, batch: Pixels) -> Rows:
        self.entered.release()
        assert self.gate.wait(60)
        if self.fatal is not None:
            raise self.fatal
        if self.run_s:
            time.sleep(self.run_s)
        values = batch[:, 0, 0, 0].astype(np.float32)
        self.batches.append([int(v) for v in values])
        if POISON in values:
            raise RuntimeError("poison")
        return values[:, None]

    def close(self) -> None:
        pass


class Pictures:
    """Puts pictures into a batcher and collects the finished tickets."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher
        self.done: list[Ticket] = []
        self.deliveries = 0
        self.reports: list[BatchReport] = []
        self._changed = threading.Condition()

    def deliver(self, finish: Callable[[], None]) -> None:
        with self._changed:
            self.deliveries += 1
            finish()
            self._changed.notify_all()

    def put(self, value: int, *, expected: bool = False, priority: Priority = Priority.NORMAL) -> Ticket:
        ticket = Ticket(self.done.append, priority)
        ticket.pixels = np.full((2, 2, 3), value, np.uint8)
        if not expected:
            self.batcher.expect()
        self.batcher.put(ticket)
        return ticket

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.done) >= count, 60), f"only {len(self.done)} of {count}"


@contextmanager
def running(engine: FakeEngine, *, max_batch: int = 4, max_wait_s: float = 0.0, threads: int = 1) -> Iterator[Pictures]:
    batcher = Batcher(engine, max_batch=max_batch, max_wait_s=max_wait_s, threads=threads, name="fake")
    pictures = Pictures(batcher)
    batcher.start(pictures.deliver, pictures.reports.append)
    try:
        yield pictures
    finally:
        engine.gate.set()
        batcher.close()


@contextmanager
def helped(engine: FakeEngine, *, max_batch: int = 4, max_wait_s: float = 0.0) -> Iterator[Pictures]:
    with running(engine, max_batch=max_batch, max_wait_s=max_wait_s, threads=0) as pictures:
        yield pictures


def busy() -> bool:
    return True


def idle() -> bool:
    return False
