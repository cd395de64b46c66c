"""Engines that fail on a picture or die, and what becomes of those beside it."""

import numpy as np
import pytest

from serve.engines.engine import Rows
from serve.ticket import Ticket
from skipvit.transforms import Pixels
from tests.serve.fake_engine import POISON, FakeEngine, helped, idle, running


def test_poison_fails_alone() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with running(engine) as pictures:
        pictures.put(1)
        assert engine.entered.acquire(timeout=60)
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


def test_what_nobody_waits_for_is_neither_tried_again_nor_mourned(caplog: pytest.LogCaptureFixture) -> None:
    """A run that is broken off because its clients went away fails, too, and that is no fault of the model's."""
    tickets: list[Ticket] = []

    class Deserted(FakeEngine):
        def run(self, batch: Pixels) -> Rows:
            if len(batch) == 3 or len(tickets) == 1:  # meanwhile somebody hangs up
                tickets[-1].abandon()
            return super().run(batch)

    engine = Deserted()
    with running(engine) as pictures:
        with pictures.batcher._changed:  # it takes nothing until all is there
            tickets.append(pictures.put(POISON))
        pictures.wait(1)
        assert tickets[0].error is not None
        assert caplog.records == []
        with pictures.batcher._changed:
            tickets += [pictures.put(value) for value in (2, POISON, 4)]
        pictures.wait(4)
    assert engine.batches == [[POISON], [2, POISON, 4], [2], [POISON]]
    assert [record.getMessage() for record in caplog.records] == ["model fake failed on a batch of 3"]
    assert tickets[1].error is None


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
        assert engine.entered.acquire(timeout=60)
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
