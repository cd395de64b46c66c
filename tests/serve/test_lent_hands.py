"""The batcher without threads of its own: whoever decodes lends it a hand."""

import threading

from serve.batcher import Batcher, BatchReport
from tests.serve.fake_engine import POISON, FakeEngine, Pictures, busy, helped, idle


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
    with helped(engine, max_wait_s=600.0) as pictures:
        first = pictures.put(1)
        pictures.batcher.lend_hand(busy)
        assert engine.batches == []
        first.waiting_since -= 600.0  # ten minutes later
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
