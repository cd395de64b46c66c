"""The decode stage: many threads, several models, bad pictures, and nothing left behind."""

import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from serve.batcher import Batcher
from serve.decoding import ImageLimits
from serve.engines.engine import Rows
from serve.pipeline import DecodeStage, Job
from serve.ticket import Ticket
from serve.urgency import Priority
from skipvit.transforms import Pixels, Preprocessing
from tests.serve.servers import png

RULE = Preprocessing(height=4, width=4, resize="squash", interpolation="box")


class Echo:
    """Answers each picture with its first pixel plus a number that tells the models apart."""

    def __init__(self, mark: int) -> None:
        self.mark = mark

    def run(self, batch: Pixels) -> Rows:
        return batch[:, 0, 0, :1].astype(np.float32) + self.mark

    def close(self) -> None:
        pass


class Collector:
    def __init__(self) -> None:
        self.done: list[Ticket] = []
        self._changed = threading.Condition()

    def deliver(self, finish: Callable[[], None]) -> None:
        with self._changed:
            finish()
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.done) == count, 60), f"{len(self.done)} of {count}"


@pytest.mark.parametrize("engine_threads", [0, 1])
@pytest.mark.parametrize("decode_threads", [1, 3])
@pytest.mark.parametrize("max_wait_s", [0.0, 0.05])
def test_every_picture_comes_back_once_with_its_own_answer(
    engine_threads: int, decode_threads: int, max_wait_s: float
) -> None:
    collector = Collector()
    batchers = [Batcher(Echo(1000 * k), max_batch=4, max_wait_s=max_wait_s, threads=engine_threads) for k in range(2)]
    stage = DecodeStage(decode_threads, ImageLimits(), lambda: batchers)
    for batcher in batchers:
        batcher.start(collector.deliver)
    stage.start(collector.deliver)
    expected: dict[Ticket, float | None] = {}
    for k in range(200):
        ticket = Ticket(collector.done.append)
        bad = k % 17 == 0
        expected[ticket] = None if bad else 1000 * (k % 2) + k
        data = b"no picture" if bad else png(k)
        stage.submit(Job(ticket, data, f"{k}.png", RULE, batchers[k % 2]))
    collector.wait(200)
    stage.close()
    for batcher in batchers:
        batcher.close()
        assert batcher.waiting == 0
    assert Counter(map(id, collector.done)) == Counter(map(id, expected))
    for ticket, value in expected.items():
        if value is None:
            assert ticket.error is not None
            assert ticket.error.status == 400
        else:
            assert ticket.result is not None
            assert ticket.result.item() == value
            assert ticket.decode_s > 0


def test_abandoned_pictures_are_not_decoded() -> None:
    collector = Collector()
    batcher = Batcher(Echo(0), max_batch=4, max_wait_s=0.0)
    stage = DecodeStage(1, ImageLimits(), lambda: [batcher])
    batcher.start(collector.deliver)
    gone, stays = Ticket(collector.done.append), Ticket(collector.done.append)
    gone.abandon()
    for ticket in (gone, stays):
        stage.submit(Job(ticket, png(9), None, RULE, batcher))
    stage.start(collector.deliver)
    collector.wait(1)
    stage.close()
    assert collector.done == [stays]
    assert gone.decode_s == 0


class Named(Echo):
    """Notes in a list that others share whose picture it ran, and takes its time."""

    def __init__(self, order: list[str], name: str, run_s: float) -> None:
        super().__init__(0)
        self.order, self.name, self.run_s = order, name, run_s

    def run(self, batch: Pixels) -> Rows:
        time.sleep(self.run_s)
        self.order += [self.name] * len(batch)
        return super().run(batch)


def test_a_slow_model_with_a_long_queue_does_not_hold_up_another() -> None:
    order: list[str] = []
    collector = Collector()
    batchers = {
        name: Batcher(Named(order, name, run_s), max_batch=1, max_wait_s=0.0, name=name)
        for name, run_s in (("slow", 0.02), ("fast", 0.0))
    }
    stage = DecodeStage(1, ImageLimits(), lambda: batchers.values())
    for batcher in batchers.values():
        batcher.start(collector.deliver)
    for name, count in (("slow", 20), ("fast", 5)):  # all of the slow one's come first
        for _ in range(count):
            stage.submit(Job(Ticket(collector.done.append), png(9), None, RULE, batchers[name]))
    stage.start(collector.deliver)
    collector.wait(25)
    stage.close()
    last_fast = max(place for place, name in enumerate(order) if name == "fast")
    assert order[:last_fast].count("slow") <= 10, "they took turns; first come, first served would be 20"


def test_the_decoder_takes_high_first_and_of_a_request_of_many_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.turns.STEP_S", 1e6)  # nobody rises while the test runs
    collector = Collector()
    batcher = Batcher(Echo(0), max_batch=1, max_wait_s=0.0)
    batcher.start(collector.deliver)
    stage = DecodeStage(1, ImageLimits(), lambda: [batcher])
    for value, priority, place in ((4, Priority.LOW, 0), (1, Priority.NORMAL, 0), (3, Priority.NORMAL, 1)):
        stage.submit(Job(Ticket(collector.done.append, priority), png(value), None, RULE, batcher, place))
    for value, priority in ((2, Priority.NORMAL), (0, Priority.HIGH)):
        stage.submit(Job(Ticket(collector.done.append, priority), png(value), None, RULE, batcher))
    stage.start(collector.deliver)
    collector.wait(5)
    stage.close()
    assert [ticket.result.item() for ticket in collector.done if ticket.result is not None] == [0, 1, 2, 3, 4]


class SlotsElsewhere(Batcher):
    """A batcher whose model runs in another process: to say what waits, it goes through all that is on its way."""

    counted = 0

    @property
    def has_threads(self) -> bool:
        return True

    @property
    def waiting(self) -> int:
        self.counted += 1
        return 1


def test_who_cannot_lend_a_hand_does_not_count_what_waits() -> None:
    """With fronts, each picture that was decoded paid for a count of all that are in flight."""
    elsewhere = SlotsElsewhere(Echo(0), max_batch=1, max_wait_s=0.0)
    DecodeStage(1, ImageLimits(), lambda: [elsewhere])._help()
    assert elsewhere.counted == 0
