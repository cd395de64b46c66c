"""The batcher with engine threads of its own, before a fake engine and without HTTP."""

import threading
import time

import pytest

from serve.batcher import Batcher, BatchReport
from serve.ticket import Ticket
from serve.urgency import Priority
from tests.serve.fake_engine import POISON, FakeEngine, Pictures, running


def test_alone_is_not_delayed() -> None:
    """With a patience of ten minutes, a request that comes alone still leaves at once."""
    with running(FakeEngine(), max_wait_s=600.0) as pictures:
        ticket = pictures.put(7)
        pictures.wait(1)
        assert ticket.result is not None
        assert ticket.result.tolist() == [7.0]
        assert ticket.batch_size == 1
    assert pictures.reports == [BatchReport(1, "idle")]


def test_what_waits_rides_together_and_is_split_exactly() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with running(engine) as pictures:
        first = pictures.put(1)
        assert engine.entered.acquire(timeout=60)
        tickets = [pictures.put(value) for value in (2, 3, 4, 5, 6)]
        engine.gate.set()
        pictures.wait(6)
    assert engine.batches == [[1], [2, 3, 4, 5], [6]]
    assert [t.result.item() for t in [first, *tickets] if t.result is not None] == [1, 2, 3, 4, 5, 6]
    assert [t.batch_size for t in tickets] == [4, 4, 4, 4, 1]
    assert [r.reason for r in pictures.reports] == ["idle", "full", "idle"]
    assert pictures.deliveries == 3  # one wake-up per batch


def test_waits_for_what_is_decoding_until_it_is_there() -> None:
    with running(FakeEngine(), max_wait_s=600.0) as pictures:
        pictures.batcher.expect()  # a second picture is being decoded
        pictures.put(1)
        time.sleep(0.05)
        assert not pictures.done
        pictures.put(2, expected=True)
        pictures.wait(2)
    assert [r.size for r in pictures.reports] == [2]


def test_stops_waiting_when_the_other_cannot_be_decoded() -> None:
    with running(FakeEngine(), max_wait_s=600.0) as pictures:
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
        assert engine.entered.acquire(timeout=60)
        gone, stays = pictures.put(2), pictures.put(3)
        gone.abandon()
        engine.gate.set()
        pictures.wait(2)
        assert stays.result is not None
    assert engine.batches == [[1], [3]]


def test_free_engines_share_what_waits() -> None:
    engine = FakeEngine(run_s=0.02)
    with running(engine, max_batch=8, threads=2) as pictures:
        engine.gate.clear()
        for value in (1, 2):  # occupies both threads
            pictures.put(value)
            assert engine.entered.acquire(timeout=60)
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


def test_a_free_engine_takes_high_before_normal_before_low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.turns.STEP_S", 1e6)  # nobody rises while the test runs
    engine = FakeEngine()
    engine.gate.clear()
    with running(engine, max_batch=2) as pictures:
        pictures.put(1)
        assert engine.entered.acquire(timeout=60)
        for value, priority in ((4, Priority.LOW), (3, Priority.NORMAL), (5, Priority.LOW), (2, Priority.HIGH)):
            pictures.put(value, priority=priority)
        engine.gate.set()
        pictures.wait(5)
    assert engine.batches == [[1], [2, 3], [4, 5]]


def test_engines_of_one_model_share_its_queue() -> None:
    """Both are held, each with a picture; the third waits for whichever is free first."""
    engines = [FakeEngine(), FakeEngine()]
    for engine in engines:
        engine.gate.clear()
    batcher = Batcher(engines[0], max_batch=1, max_wait_s=0.0, threads=1, others=engines[1:])
    pictures = Pictures(batcher)
    batcher.start(pictures.deliver)
    for value in (1, 2, 3):
        pictures.put(value)
    try:
        assert all(engine.entered.acquire(timeout=30) for engine in engines)
        engines[1].gate.set()
        pictures.wait(2)
    finally:
        engines[0].gate.set()
        engines[1].gate.set()
        batcher.close()
    assert sorted(value for engine in engines for [value] in engine.batches) == [1, 2, 3]
    assert len(engines[1].batches) == 2, "it was free first"
