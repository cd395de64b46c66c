"""The slots that fronts share with the engine: whatever happens in whatever order, none is lost and none is shared."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.batcher import call_now
from serve.errors import BadImage, EngineFailed, NotReady, Overloaded, TooLarge
from serve.fronts.ring import Ring
from serve.fronts.wire import ERROR_BYTES, ModelRow, error_of, error_text
from serve.ticket import Ticket
from serve.urgency import Priority
from skipvit.manifest import Tiling
from tests.serve.front_pair import Pair, ScriptedBatcher, row_of_shades

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory without a name is Linux's")

SLOTS = 3
STEPS = ("submit", "engine reads", "engine takes", "front reads", "abandon", "front dies")


@pytest.fixture(scope="module")
def row(models_dir: Path) -> ModelRow:
    return row_of_shades(models_dir)


@pytest.fixture
def pair(row: ModelRow) -> Iterator[Pair]:
    pair = Pair(row, ScriptedBatcher(), SLOTS)
    yield pair
    pair.close()


def answered(pair: Pair) -> list[int]:
    return [int(ticket.result[0]) for ticket in pair.done if ticket.result is not None]


def batcher_of(pair: Pair) -> ScriptedBatcher:
    batcher = pair.desk.offer.models[0].batcher
    assert isinstance(batcher, ScriptedBatcher)
    return batcher


def work_off(pairs: list[Pair], batcher: ScriptedBatcher) -> None:
    """Everybody goes on until nothing is left to be done."""
    for _ in range(100):
        for pair in pairs:
            pair.engine_reads()
        while batcher.waiting:
            batcher.take()
        for pair in pairs:
            pair.front_reads()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 1), st.integers(0, 30)), max_size=60))
def test_no_slot_is_lost_or_shared(row: ModelRow, steps: list[tuple[str, int, int]]) -> None:
    """Two fronts of three slots, and any interleaving of what they, the engine and their clients do."""
    batcher = ScriptedBatcher()
    pairs = [Pair(row, batcher, SLOTS) for _ in range(2)]
    dead = [False, False]
    values = iter(range(256))
    expected: dict[int, int] = {}
    for step, which, number in steps:
        pair = pairs[which]
        if step == "submit" and not dead[which]:
            value = next(values)
            expected[id(pair.submit(value))] = value
        elif step == "engine reads":
            pair.engine_reads()
        elif step == "engine takes" and batcher.waiting:
            batcher.take(number)
        elif step == "front reads" and not dead[which]:
            pair.front_reads()
        elif step == "abandon" and pair.tickets:
            pair.tickets[number % len(pair.tickets)].abandon()
        elif step == "front dies" and number == 0:
            dead[which] = True
            pair.front_dies()
    work_off(pairs, batcher)
    for pair, died in zip(pairs, dead, strict=True):
        assert len(set(map(id, pair.done))) == len(pair.done)  # nobody is told twice
        for ticket in pair.done:
            assert ticket.error is None or died
            assert ticket.result is None or (ticket.result == expected[id(ticket)]).all()
        if not died:
            assert pair.link.free == SLOTS
            assert all(ticket.abandoned or ticket.result is not None for ticket in pair.tickets)
        pair.close()
    assert batcher.expected == 0


def test_what_has_no_slot_waits_for_one_in_its_turn(pair: Pair) -> None:
    for value in range(8):
        pair.submit(value)
    assert pair.link.waiting(0) == 8
    assert pair.link.free == 0
    work_off([pair], batcher_of(pair))
    assert answered(pair) == list(range(8))
    assert pair.link.waiting(0) == 0


def test_what_is_abandoned_is_not_run(pair: Pair) -> None:
    """In its slot, on the way there, and while it waits for one."""
    tickets = [pair.submit(value) for value in range(5)]
    pair.engine_reads()
    for place in (1, 4):
        tickets[place].abandon()
    work_off([pair], batcher_of(pair))
    assert batcher_of(pair).ran == answered(pair) == [0, 2, 3]
    assert pair.link.free == SLOTS


def test_abandoning_what_is_done_does_not_touch_whoever_has_the_slot_now(pair: Pair) -> None:
    first = pair.submit(1)
    work_off([pair], batcher_of(pair))
    stale = first.on_abandoned or (lambda: pair.link._abandon(SLOTS - 1, first))
    second = pair.submit(2)
    stale()
    first.abandon()
    work_off([pair], batcher_of(pair))
    assert second.result is not None
    assert answered(pair) == [1, 2]


def test_a_dead_engine_refuses_all_that_is_in_flight_and_all_that_comes(pair: Pair) -> None:
    for value in range(5):
        pair.submit(value)
    pair.engine_reads()
    pair.engine_dies()
    late = pair.submit(9)
    assert len(pair.done) == 6
    assert late in pair.done
    for ticket in pair.done:
        assert isinstance(ticket.error, NotReady)
        assert ticket.error.headers["Retry-After"]
    assert not pair.link.alive


def test_what_a_dead_front_sent_is_dropped_and_its_memory_stays_while_it_is_read(pair: Pair) -> None:
    for value in range(3):
        pair.submit(value)
    pair.engine_reads()
    held = batcher_of(pair).waiting[0].pixels
    pair.front_dies()
    work_off([pair], batcher_of(pair))
    assert batcher_of(pair).ran == []
    assert held is not None
    assert (held == 0).all()


def test_an_error_of_the_engine_comes_through(pair: Pair) -> None:
    pair.submit(1)
    pair.engine_reads()
    [ticket] = batcher_of(pair).waiting
    ticket.error = EngineFailed("engine_failed", "the model failed on this picture", "see the log")
    ticket.on_done(ticket)
    pair.front_reads()
    [done] = pair.done
    assert isinstance(done.error, EngineFailed)
    assert done.error.as_dict() == ticket.error.as_dict()
    assert pair.link.free == SLOTS


@pytest.mark.parametrize(
    "error",
    [
        NotReady("out of service"),
        Overloaded("too much", 7),
        TooLarge("too_large", "x" * 9000, "y" * 9000),
        BadImage("bad", "\N{SNOWMAN}" * 9000, "\N{SNOWMAN}" * 9000),
    ],
)
def test_errors_survive_the_way(error: NotReady) -> None:
    text = error_text(error)
    assert len(text) <= ERROR_BYTES
    back = error_of(text)
    assert type(back) is type(error)
    assert (back.status, back.code) == (error.status, error.code)
    if len(error.message) < 500:
        assert (back.message, back.hint, back.headers) == (error.message, error.hint, error.headers)


def test_a_ring_is_as_large_as_it_says() -> None:
    ring = Ring.create(3, 100)
    ring.slot(2)[:] = 7
    with pytest.raises(OSError, match="not permitted"):  # sealed: the other process cannot cut it short
        os.ftruncate(ring.fd, 0)
    with pytest.raises(ValueError, match="do not fill"):
        Ring(ring.fd, 4, 100)
    other = Ring(ring.fd, 3, 100)
    assert (other.slot(2) == 7).all()
    assert not other.slot(1).any()
    ring.close()


def test_a_slot_is_wanted_again_by_whoever_has_it_next(pair: Pair) -> None:
    for value in range(SLOTS):
        pair.submit(value).abandon()
    work_off([pair], batcher_of(pair))
    for value in range(SLOTS, 2 * SLOTS):
        pair.submit(value)
    work_off([pair], batcher_of(pair))
    assert sorted(answered(pair)) == list(range(SLOTS, 2 * SLOTS))


def test_what_is_abandoned_before_it_is_sent_is_not_run(pair: Pair) -> None:
    ticket = Ticket(pair.done.append)
    ticket.pixels = np.zeros((8, 8, 3), np.uint8)
    ticket.abandon()
    pair.link.submit(0, ticket, call_now)
    work_off([pair], batcher_of(pair))
    assert batcher_of(pair).ran == []
    assert pair.link.free == SLOTS


def test_nobody_is_told_twice_when_an_engine_dies_after_its_answer(pair: Pair) -> None:
    pair.submit(1)
    pair.submit(2)
    pair.engine_reads()
    batcher_of(pair).take()
    pair.engine_dies()
    pair.front_reads()
    pair.link.lose()
    assert len(pair.done) == 2
    assert pair.link.waiting(0) == 0


def test_pictures_do_not_wait_for_tiles(row: ModelRow) -> None:
    """However many tiles are on the way, the slots of pictures are theirs, and the other way round."""
    changes = {"task": "denoising", "tiling": Tiling(tile=8, halo=1, multiple=1), "preprocessing": None}
    tiles = row.model_copy(update={"manifest": row.manifest.model_copy(update=changes)})
    pair = Pair(row, ScriptedBatcher(), 4, 2, [tiles])
    for value in range(8):
        pair.submit(value, 1)
    picture = pair.submit(100)
    pair.engine_reads()
    assert len(batcher_of(pair).waiting) == 3
    batcher_of(pair).take(2)
    pair.front_reads()
    assert picture.result is not None
    for value in range(101, 106):
        pair.submit(value)
    work_off([pair], batcher_of(pair))
    assert sorted(answered(pair)) == [*range(8), *range(100, 106)]
    assert pair.link.free == 4
    pair.close()


def test_who_waits_for_a_slot_has_it_by_priority(pair: Pair) -> None:
    for value in range(SLOTS):
        pair.submit(value)
    low = pair.submit(10, priority=Priority.LOW)
    low.waiting_since = pair.submit(20, priority=Priority.HIGH).waiting_since
    work_off([pair], batcher_of(pair))
    assert answered(pair)[-2:] == [20, 10]


def test_abandoning_while_the_answer_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of the link takes back what is to be called at any moment, also between two looks at it."""
    calls: list[str] = []
    looks = iter([lambda: calls.append("told")])
    monkeypatch.setattr(Ticket, "on_abandoned", property(lambda _self: next(looks, None), lambda _self, _value: None))
    ticket = Ticket(lambda _ticket: None)
    ticket.abandon()
    assert ticket.abandoned
    assert calls == ["told"]


def test_nobody_waits_for_a_process_that_stands_still(row: ModelRow) -> None:
    """The engine reads nothing until all is sent, and the front nothing until all is answered."""
    pair = Pair(row, ScriptedBatcher(), 300)

    def work() -> None:
        for _ in range(300):
            pair.submit(1)
        while len(batcher_of(pair).waiting) < 300:
            pair.engine_reads()
        while batcher_of(pair).waiting:
            batcher_of(pair).take()

    working = threading.Thread(target=work, daemon=True)
    working.start()
    working.join(30)
    assert not working.is_alive()
    work_off([pair], batcher_of(pair))
    assert len(answered(pair)) == 300
    pair.close()
