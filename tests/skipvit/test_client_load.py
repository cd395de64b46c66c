"""Load generation under a clock that jumps, its figures against numpy's, and its connections against a script."""

import asyncio
import random

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipvit.client.asking import Asking, Done
from skipvit.client.http_exchange import HttpExchange, _Connection, request_bytes
from skipvit.client.load import Measurement, Plan, closed_loop, open_loop, percentiles, poisson_arrivals
from tests.skipvit.scripted_server import answer, scripted
from tests.skipvit.virtual_time import run_at_once

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n"


class Machine:
    """A server with one place, that takes so many seconds for an answer, and stands still from ``stall`` on."""

    def __init__(self, seconds: float, stall: tuple[float, float] = (0.0, 0.0), status: int = 200) -> None:
        self.seconds, self.status = seconds, status
        self.stall_from, self.stall_to = stall
        self.free_at = 0.0
        self.opened = self.closed = 0
        self.asked: list[bytes] = []

    def connect(self) -> "Line":
        self.opened += 1
        return Line(self)

    def answer_at(self, now: float) -> float:
        begin = max(now, self.free_at)
        if self.stall_from <= begin < self.stall_to:
            begin = self.stall_to
        self.free_at = begin + self.seconds
        return self.free_at


class Line:
    """A connection to the machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.answer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        self.machine.closed += 1
        if self.answer is not None:
            self.answer.cancel()

    def ask(self, request: bytes, done: Done) -> None:
        loop = asyncio.get_running_loop()
        self.machine.asked.append(request)
        self.answer = loop.call_at(self.machine.answer_at(loop.time()), done, self.machine.status)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_percentiles_are_the_smallest_that_hold_their_share(latencies: list[float], percents: list[float]) -> None:
    ordered = np.sort(latencies)
    for percent, value in zip(percents, percentiles(latencies, percents), strict=True):
        share = np.searchsorted(ordered, value, side="right") / len(ordered)
        below = np.searchsorted(ordered, value, side="left") / len(ordered)
        assert value in latencies
        assert below - 1e-9 <= percent / 100 <= share + 1e-9


def test_no_latencies_have_no_percentiles() -> None:
    assert np.isnan(percentiles([], [50, 99])).all()


def test_arrivals_are_a_poisson_process() -> None:
    times = np.array(list(poisson_arrivals(200.0, 100.0, random.Random(0))))
    gaps = np.diff(times)
    assert 0 < times[0] < times[-1] < 100.0
    assert len(times) == pytest.approx(20_000, abs=4 * 20_000**0.5)
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # of an exponential distribution


def test_open_loop_counts_from_the_intended_start() -> None:
    """A server that stands still for 2 s is seen by all that came meanwhile, not by one request alone."""
    machine = Machine(0.001, stall=(1.0, 3.0))
    arrivals = [index * 0.1 for index in range(50)]
    found = run_at_once(open_loop(machine.connect, [b"x"], arrivals, Plan(5.0)))
    expected = []
    free = 0.0
    for time in arrivals:
        begin = max(time, free)
        free = (3.0 if 1.0 <= begin < 3.0 else begin) + 0.001
        expected.append(free - time)
    np.testing.assert_allclose(sorted(found.latencies_s), sorted(expected), atol=1e-6)
    assert sum(latency > 0.5 for latency in found.latencies_s) >= 15
    assert found.outcomes == {"200": 50}


def test_a_wait_for_a_connection_counts() -> None:
    machine = Machine(1.0)
    found = run_at_once(open_loop(machine.connect, [b"x"], [0.0, 0.0, 0.0], Plan(5.0), max_connections=1))
    np.testing.assert_allclose(sorted(found.latencies_s), [1.0, 2.0, 3.0])
    assert (machine.opened, machine.closed) == (1, 1)


@settings(max_examples=20, deadline=None)
@given(clients=st.integers(1, 5), warmup_s=st.sampled_from([0.0, 1.0]))
def test_closed_loop_keeps_every_client_busy(clients: int, warmup_s: float) -> None:
    machine = Machine(0.125)
    found = run_at_once(closed_loop(machine.connect, [b"a", b"b"], clients, Plan(2.0, warmup_s)))
    np.testing.assert_allclose(found.latencies_s[clients:], 0.125 * clients, atol=1e-6)
    assert found.requests_per_s == pytest.approx(8.0, abs=1)
    assert (machine.opened, machine.closed) == (clients, clients)
    assert set(machine.asked) == {b"a", b"b"}


def test_warm_up_is_not_counted() -> None:
    found = run_at_once(open_loop(Machine(0.01).connect, [b"x"], [0.0, 0.5, 1.0, 1.5], Plan(1.0, warmup_s=1.0)))
    assert found.outcomes == {"200": 2}


def test_errors_are_counted_and_have_no_latency() -> None:
    found = run_at_once(closed_loop(Machine(0.5, status=429).connect, [b"x"], 1, Plan(2.0)))
    assert found.outcomes == {"429": 4}
    assert found.latencies_s == []


def test_an_answer_that_never_comes_is_a_timeout() -> None:
    found = run_at_once(open_loop(Machine(100.0).connect, [b"x"], [0.0, 0.1], Plan(1.0, timeout_s=2.0)))
    assert found.outcomes == {"timeout": 2}
    assert (found.seconds, found.requests_per_s) == (1.0, 0.0)


def test_what_waits_for_a_connection_times_out_too() -> None:
    machine = Machine(3.0)
    found = run_at_once(open_loop(machine.connect, [b"x"], [0.0, 0.5, 2.9], Plan(1.0, timeout_s=2.0), 1))
    assert found.outcomes == {"timeout": 3}  # at 2.0, 2.5 and 4.9
    assert machine.opened == machine.closed == 3


def test_a_client_that_is_told_nothing_goes_on_asking() -> None:
    machine = Machine(100.0)
    found = run_at_once(closed_loop(machine.connect, [b"x"], 2, Plan(10.0, timeout_s=2.0)))
    assert found.outcomes == {"timeout": 10}  # two in each of 0.0, 2.05, 4.1, 6.15 and 8.2


def test_a_mistake_of_the_exchange_is_not_counted_but_raised() -> None:
    class Wrong(Line):
        def ask(self, request: bytes, done: Done) -> None:
            asyncio.get_running_loop().call_soon(done, RuntimeError("a mistake"))

    with pytest.raises(RuntimeError, match="a mistake"):
        run_at_once(open_loop(lambda: Wrong(Machine(1.0)), [b"x"], [0.0, 1.0], Plan(2.0)))


def test_a_way_of_asking_without_its_parts_is_found_before_it_asks() -> None:
    halfway = type("Halfway", (Asking,), {"_start": lambda _: None})
    with pytest.raises(TypeError, match=r"abstract method.*_ended"):
        halfway(1.0, lambda *_: None)


def test_cancelling_gives_what_was_measured() -> None:
    async def interrupted() -> Measurement:
        task = asyncio.create_task(closed_loop(Machine(0.1).connect, [b"x"], 2, Plan(60.0)))
        await asyncio.sleep(1.0)
        task.cancel()
        return await task

    found = run_at_once(interrupted())
    assert found.interrupted
    assert len(found.latencies_s) == pytest.approx(10, abs=1)


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (answer(200, b"body"), "200"),
        (CHUNKED, "200"),
        (answer(200, b"body", {"Connection": "close"}), "200"),
        (answer(429), "429"),
        (answer(200, b"half", {"Content-Length": "99", "Connection": "close"}), "broken"),
        (b"220 ready\r\n\r\n", "broken"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "broken"),
    ],
)
def test_answers_over_a_socket(said: bytes, outcome: str) -> None:
    with scripted(said) as server:
        url = httpx.URL(server.url)
        request = request_bytes(httpx.Request("POST", url.join("/v1/classify?top_k=1"), content=b"picture"))
        plan = Plan(0.2, timeout_s=5)
        found = asyncio.run(closed_loop(lambda: HttpExchange(url, None), [request], 1, plan))
    assert set(found.outcomes) == {outcome}
    assert server.seen[0][0] == "POST /v1/classify?top_k=1 HTTP/1.1"
    assert server.seen[0][2] == b"picture"
    assert len(server.seen) >= found.outcomes.total()


@settings(deadline=None)
@given(
    said=st.sampled_from(
        [answer(200, b"body" * 50), answer(503), CHUNKED, CHUNKED.replace(b"0\r\n\r", b"0\r\nA: b\r\n\r")]
    ),
    cuts=st.sets(st.integers(1, 300)),
)
def test_answers_in_pieces(said: bytes, cuts: set[int]) -> None:
    """However an answer is cut, its status is told once, with its last byte, and the connection goes on."""
    ends = sorted(cut for cut in cuts if cut < len(said))
    pieces = [said[begin:end] for begin, end in zip([0, *ends], [*ends, len(said)], strict=True)]
    told: list[int | Exception] = []
    connection = _Connection()
    connection.connection_made(FakeTransport())
    for _ in range(2):
        connection.ask(b"x", told.append)
        for piece in pieces:
            before = len(told)
            connection.data_received(piece)
        assert (before, len(told)) == (len(told) - 1, len(told))
    assert told == [int(said[9:12])] * 2
    assert not connection.closed


class FakeTransport(asyncio.Transport):
    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert data == b"x"


def test_nobody_there_is_counted_as_refused() -> None:
    with scripted(b"") as server:
        url = httpx.URL(server.url)
    found = asyncio.run(closed_loop(lambda: HttpExchange(url, None), [b"x"], 1, Plan(0.2)))
    assert set(found.outcomes) == {"refused"}
    assert found.outcomes.total() < 10
