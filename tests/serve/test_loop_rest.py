"""An event loop rests after refusals, and never while an answer waits."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from unittest.mock import Mock

import pytest
import uvloop

from serve.web import loop_rest
from serve.web.loop_rest import Rest

WITHIN_S = 60.0


def alone() -> bool:
    return False


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = request.param()
    yield loop
    loop.close()


def test_a_rest_ends_by_itself(loop: asyncio.AbstractEventLoop) -> None:
    rest = Rest(alone)
    resting = noted(rest)

    async def scenario() -> None:
        rest.after_this()
        await turns_until(resting.is_set)  # after it, since it holds the loop

    loop.run_until_complete(asyncio.wait_for(scenario(), WITHIN_S))


def test_an_answer_ends_a_rest(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest would take longer than the test may."""
    monkeypatch.setattr(loop_rest, "_REST_S", 10 * WITHIN_S)
    rest = Rest(alone)
    resting = noted(rest)

    async def scenario() -> None:
        deliver = rest.deliver_to(asyncio.get_running_loop())
        answered = asyncio.Event()

        def answer() -> None:
            resting.wait(WITHIN_S)
            deliver(answered.set)

        engine = threading.Thread(target=answer)
        engine.start()
        rest.after_this()
        await answered.wait()
        engine.join()

    loop.run_until_complete(asyncio.wait_for(scenario(), WITHIN_S))


def test_an_answer_that_comes_before_a_rest_leaves_none(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_rest, "_REST_S", 10 * WITHIN_S)
    rest = Rest(alone)

    async def scenario() -> None:
        rest.after_this()
        rest.deliver_to(asyncio.get_running_loop())(Mock())
        await asyncio.sleep(0.001)

    loop.run_until_complete(asyncio.wait_for(scenario(), WITHIN_S))


def test_an_answer_before_a_refusal_is_called_before_the_rest(loop: asyncio.AbstractEventLoop) -> None:
    rest = Rest(alone)
    happened: list[str] = []
    resting = noted(rest, lambda: happened.append("rest"))

    async def scenario() -> None:
        rest.deliver_to(asyncio.get_running_loop())(lambda: happened.append("answer"))
        rest.after_this()
        await turns_until(resting.is_set)

    loop.run_until_complete(asyncio.wait_for(scenario(), WITHIN_S))
    assert happened == ["answer", "rest"]


def test_what_has_begun_goes_on_before_the_rest(loop: asyncio.AbstractEventLoop) -> None:
    """A request that was let in beside a refused one, with some turns of the loop to go, does not wait for nothing."""
    rest = Rest(alone)
    happened: list[str] = []
    resting = noted(rest, lambda: happened.append("rest"))

    async def begun() -> None:
        for _ in range(4):
            await asyncio.sleep(0)
        happened.append("begun")

    async def scenario() -> None:
        rest.after_this()
        await begun()
        await turns_until(resting.is_set)

    loop.run_until_complete(asyncio.wait_for(scenario(), WITHIN_S))
    assert happened == ["begun", "rest"]


def test_there_is_no_rest_beside_other_requests(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_rest, "_REST_S", 10 * WITHIN_S)
    rest = Rest(lambda: True)

    async def scenario() -> None:
        rest.after_this()
        await asyncio.get_running_loop().run_in_executor(None, Mock())

    loop.run_until_complete(asyncio.wait_for(scenario(), WITHIN_S))


def test_many_refusals_are_one_rest(loop: asyncio.AbstractEventLoop) -> None:
    rest = Rest(alone)
    count: list[None] = []
    noted(rest, lambda: count.append(None))

    async def scenario() -> None:
        for expected in (1, 2):
            for _ in range(100):
                rest.after_this()
            await turns_until(lambda least=expected: len(count) >= least)
            for _ in range(2 * loop_rest._TURNS):  # in which a second would come
                await asyncio.sleep(0)
            assert len(count) == expected

    loop.run_until_complete(asyncio.wait_for(scenario(), WITHIN_S))


async def turns_until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def noted(rest: Rest, begins: Callable[[], object] = lambda: None) -> threading.Event:
    """Has ``begins`` called when a rest begins; the event is set then."""
    resting = threading.Event()

    class Noted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            begins()
            resting.set()
            return super().wait(timeout)

    rest._news = Noted()
    return resting
