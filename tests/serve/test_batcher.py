"""The batcher against a fake engine, without HTTP."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from serve.batcher import Batcher, BatchReport
from serve.engine import Rows
from serve.ticket import Ticket
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
        assert self.gate.wait(10)
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

    def put(self, value: int, *, expected: bool = False) -> Ticket:
        ticket = Ticket(self.done.append)
        ticket.pixels = np.full((2, 2, 3), value, np.uint8)
        if not expected:
            self.batcher.expect()
        self.batcher.put(ticket)
        return ticket

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.done) >= count, 10), f"only {len(self.done)} of {count}"


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


def test_alone_is_not_delayed() -> None:
    """With a patience of seconds, a request that comes alone still leaves at once."""
    with running(FakeEngine(), max_wait_s=5.0) as pictures:
        started = time.monotonic()
        ticket = pictures.put(7)
        pictures.wait(1)
        assert time.monotonic() - started < 1.0
        assert ticket.result is not None
        assert ticket.result.tolist() == [7.0]
        assert ticket.batch_size == 1
    assert pictures.reports == [BatchReport(1, "idle")]


def test_what_waits_rides_together_and_is_split_exactly() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with running(engine) as pictures:
        first = pictures.put(1)
        assert engine.entered.acquire(timeout=10)
        tickets = [pictures.put(value) for value in (2, 3, 4, 5, 6)]
        engine.gate.set()
        pictures.wait(6)
    assert engine.batches == [[1], [2, 3, 4, 5], [6]]
    assert [t.result.item() for t in [first, *tickets] if t.result is not None] == [1, 2, 3, 4, 5, 6]
    assert [t.batch_size for t in tickets] == [4, 4, 4, 4, 1]
    assert [r.reason for r in pictures.reports] == ["idle", "full", "idle"]
    assert pictures.deliveries == 3  # one wake-up per batch


def test_waits_for_what_is_decoding_until_it_is_there() -> None:
    with running(FakeEngine(), max_wait_s=10.0) as pictures:
        pictures.batcher.expect()  # a second picture is being decoded
        pictures.put(1)
        time.sleep(0.05)
        assert not pictures.done
        pictures.put(2, expected=True)
        pictures.wait(2)
    assert [r.size for r in pictures.reports] == [2]


def test_stops_waiting_when_the_other_cannot_be_decoded() -> None:
    with running(FakeEngine(), max_wait_s=10.0) as pictures:
        pictures.batcher.expect()
        pictures.put(1)
        pictures.batcher.forget()
        pictures.wait(1)
    assert [r.size for r in pictures.reports] == [1]


def test_waiting_is_bounded() -> None:
    with running(FakeEngine(), max_wait_s=0.02) as pictures:
        pictures.batcher.expect()  # never arrives
        pictures.put(1)
        pictures.wait(1)
        pictures.batcher.forget()
    assert [r.reason for r in pictures.reports] == ["waited"]


def test_abandoned_pictures_are_not_computed() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with running(engine) as pictures:
        pictures.put(1)
        assert engine.entered.acquire(timeout=10)
        gone, stays = pictures.put(2), pictures.put(3)
        gone.abandon()
        engine.gate.set()
        pictures.wait(2)
        assert stays.result is not None
    assert engine.batches == [[1], [3]]


def test_poison_fails_alone() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with running(engine) as pictures:
        pictures.put(1)
        assert engine.entered.acquire(timeout=10)
        tickets = [pictures.put(value) for value in (2, POISON, 4)]
        engine.gate.set()
        pictures.wait(4)
        good, bad, also_good = tickets
        assert good.error is None
        assert also_good.error is None
        assert bad.error is not None
        assert bad.error.status == 500
        assert "failed on this picture" in bad.error.message
        assert "poison" not in bad.error.message  # internals stay in the log
        assert pictures.batcher.alive


def test_nan_fails_alone() -> None:
    class NanEngine(FakeEngine):
        def run(self, batch: Pixels) -> Rows:
            rows = super().run(batch)
            rows[rows == 5] = np.nan
            return rows

    with running(NanEngine()) as pictures:
        bad = pictures.put(5)
        pictures.wait(1)
        good = pictures.put(6)
        pictures.wait(2)
        assert bad.error is not None
        assert good.error is None


def test_a_wrong_number_of_answers_is_an_error_not_a_mix_up() -> None:
    class ShortEngine(FakeEngine):
        def run(self, batch: Pixels) -> Rows:
            return super().run(batch)[:-1]

    with running(ShortEngine()) as pictures:
        ticket = pictures.put(1)
        pictures.wait(1)
        assert ticket.error is not None


def test_a_dead_engine_takes_the_batcher_out_of_service() -> None:
    engine = FakeEngine()
    with running(engine, threads=2) as pictures:
        engine.gate.clear()
        engine.fatal = SystemExit("killed")
        tickets = [pictures.put(1)]
        assert engine.entered.acquire(timeout=10)
        engine.gate.set()
        pictures.wait(1)
        assert not pictures.batcher.alive
        tickets.append(pictures.put(2))
        pictures.wait(2)
        for ticket in tickets:
            assert ticket.error is not None
            assert ticket.error.status == 503
            assert "out of service" in ticket.error.message


def test_an_engine_that_dies_while_pictures_are_tried_one_by_one_strands_none() -> None:
    """As a GPU that is lost right after a batch failed."""

    class Dying(FakeEngine):
        def run(self, batch: Pixels) -> Rows:
            if len(batch) > 1:
                self.fatal = SystemExit("lost")  # from the next run on
                raise RuntimeError("a batch failed")
            return super().run(batch)

    with helped(Dying()) as pictures:
        tickets = [pictures.put(value) for value in (1, 2, 3)]
        pictures.batcher.lend_hand(idle)
        pictures.wait(3)
        assert not pictures.batcher.alive
        assert all(ticket.error is not None and ticket.error.status == 503 for ticket in tickets)


def test_free_engines_share_what_waits() -> None:
    engine = FakeEngine(run_s=0.02)
    with running(engine, max_batch=8, threads=2) as pictures:
        engine.gate.clear()
        for value in (1, 2):  # occupies both threads
            pictures.put(value)
            assert engine.entered.acquire(timeout=10)
        for value in range(10, 18):
            pictures.put(value)
        engine.gate.set()
        pictures.wait(10)
    assert sum(len(batch) for batch in engine.batches) == 10
    assert sorted(v for batch in engine.batches for v in batch) == [1, 2, *range(10, 18)]


def test_close_finishes_what_waits() -> None:
    engine = FakeEngine(run_s=0.01)
    with running(engine, max_batch=1) as pictures:
        for value in range(5):
            pictures.put(value)
        pictures.batcher.close()
        assert len(pictures.done) == 5
        late = pictures.put(9)
        assert late.error is not None


# --- without threads of its own ---


@contextmanager
def helped(engine: FakeEngine, *, max_batch: int = 4, max_wait_s: float = 0.0) -> Iterator[Pictures]:
    with running(engine, max_batch=max_batch, max_wait_s=max_wait_s, threads=0) as pictures:
        yield pictures


def busy() -> bool:
    return True


def idle() -> bool:
    return False


def test_a_lent_hand_runs_what_waits_at_once_when_nothing_else_is_to_be_done() -> None:
    engine = FakeEngine()
    with helped(engine, max_wait_s=60.0) as pictures:
        for value in range(6):
            pictures.put(value)
        assert engine.batches == []
        assert pictures.batcher.lend_hand(idle)
        assert engine.batches == [[0, 1, 2, 3]], "one batch: then another model may be more in need of the thread"
        assert pictures.batcher.lend_hand(idle)
        assert engine.batches == [[0, 1, 2, 3], [4, 5]]
        assert [r.reason for r in pictures.reports] == ["full", "idle"]
        assert pictures.deliveries == 2
        assert not pictures.batcher.lend_hand(idle)  # nothing waits: nothing happens
        assert len(engine.batches) == 2


def test_decoding_goes_first_until_a_batch_is_full() -> None:
    engine = FakeEngine()
    with helped(engine, max_wait_s=60.0) as pictures:
        for value in range(3):
            pictures.put(value)
            pictures.batcher.lend_hand(busy)
        assert engine.batches == []
        pictures.put(3)
        pictures.batcher.lend_hand(busy)
        assert engine.batches == [[0, 1, 2, 3]]


def test_a_picture_does_not_wait_for_others_longer_than_it_may() -> None:
    engine = FakeEngine()
    with helped(engine, max_wait_s=0.01) as pictures:
        pictures.put(1)
        pictures.batcher.lend_hand(busy)
        assert engine.batches == []
        time.sleep(0.02)
        pictures.put(2)
        pictures.batcher.lend_hand(busy)
        assert engine.batches == [[1, 2]]
        assert pictures.reports == [BatchReport(2, "waited")]


def test_a_lent_hand_survives_a_dying_engine() -> None:
    engine = FakeEngine()
    with helped(engine) as pictures:
        engine.fatal = SystemExit("killed")
        ticket = pictures.put(1)
        pictures.batcher.lend_hand(idle)  # does not raise
        assert not pictures.batcher.alive
        assert ticket.error is not None
        assert ticket.error.status == 503


def test_a_lent_hand_drops_what_is_abandoned_and_isolates_poison() -> None:
    engine = FakeEngine()
    with helped(engine) as pictures:
        tickets = [pictures.put(value) for value in (1, POISON, 2)]
        tickets[0].abandon()
        pictures.batcher.lend_hand(idle)
        assert engine.batches == [[POISON, 2], [POISON], [2]]
        assert [t.error is None for t in tickets[1:]] == [False, True]


@pytest.mark.parametrize("threads", [1, 3])
def test_thousand_pictures_from_many_threads_all_get_their_own_answer(threads: int) -> None:
    with running(FakeEngine(), max_batch=8, max_wait_s=0.001, threads=threads) as pictures:
        tickets: list[tuple[int, Ticket]] = []

        def produce(offset: int) -> None:
            for i in range(250):
                value = (offset * 7 + i) % POISON
                tickets.append((value, pictures.put(value)))

        producers = [threading.Thread(target=produce, args=(n,)) for n in range(4)]
        for producer in producers:
            producer.start()
        for producer in producers:
            producer.join()
        pictures.wait(1000)
    for value, ticket in tickets:
        assert ticket.result is not None
        assert ticket.result.item() == value


def test_closing_waits_for_a_hand_that_was_lent() -> None:
    """Whoever closes the engine afterwards takes it away from nobody."""
    engine = FakeEngine()
    pictures = Pictures(Batcher(engine, max_batch=1, max_wait_s=0.0))
    pictures.batcher.start(pictures.deliver)
    engine.gate.clear()
    tickets = [pictures.put(1), pictures.put(2)]
    hand = threading.Thread(target=pictures.batcher.lend_hand, args=[lambda: False])
    hand.start()
    assert engine.entered.acquire(timeout=30)
    closed: list[bool] = []
    closing = threading.Thread(target=lambda: closed.append(pictures.batcher.close(timeout_s=30)))
    closing.start()
    assert engine.entered.acquire(timeout=30)  # it lends a hand itself, with the second picture
    assert not pictures.batcher.close(timeout_s=0.01)
    engine.gate.set()
    closing.join(30)
    hand.join(30)
    assert closed == [True]
    assert [ticket.error for ticket in tickets] == [None, None]
    refused = pictures.put(3)
    assert refused.error is not None
    pictures.batcher.lend_hand(lambda: False)
    assert engine.batches == [[1], [2]] or engine.batches == [[2], [1]]
