"""What a front asks the other processes, when many clients ask at once."""

import asyncio
import sys
from typing import Any, cast

import orjson
import pytest

from serve.errors import NotReady
from serve.fronts.control import NUMBER, Kind, Message
from serve.fronts.others import Others

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fronts need Linux")

CLIENTS = 500


class Supervisor:
    """Keeps the questions of a front; ``error`` is raised where one is sent."""

    def __init__(self, error: OSError | None = None) -> None:
        self.asked: list[bytes] = []
        self.sent = 0
        self._error = error

    def send(self, kind: Kind, body: bytes) -> None:
        self.sent += 1
        if self._error is not None:
            raise self._error
        assert kind == Kind.SCRAPE
        self.asked.append(body)

    def answer(self, others: Others) -> None:
        number = self.asked.pop()[: NUMBER.size]
        others.hear(Message(Kind.SAMPLES, number + orjson.dumps(["# TYPE n gauge\nn 1\n"])))


class Counting:
    """Metrics that count how often they were rendered."""

    def __init__(self) -> None:
        self.rendered = 0

    def __call__(self) -> bytes:
        self.rendered += 1
        return b"# TYPE n gauge\nn %d\n" % (10 * self.rendered)


async def _turns() -> None:
    """Lets all tasks go as far as they can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_one_question_is_under_way_for_all_who_ask() -> None:
    """One for each would have the front and the supervisor wait for each other to read."""

    async def main() -> None:
        supervisor, render = Supervisor(), Counting()
        others = Others(cast(Any, supervisor), {})
        first = asyncio.create_task(others.metrics(render))
        await _turns()
        later = [asyncio.create_task(others.metrics(render)) for _ in range(CLIENTS)]
        later[0].cancel()
        await _turns()
        later[1].cancel()
        assert len(supervisor.asked) == supervisor.sent == 1
        supervisor.answer(others)
        assert b"\nn 11.0\n" in await first
        await _turns()
        assert len(supervisor.asked) == 1
        assert supervisor.sent == render.rendered == 2
        supervisor.answer(others)
        # What happened before they asked is in it: it was rendered anew.
        assert all(b"\nn 21.0\n" in text for text in await asyncio.gather(*later[2:]))

    asyncio.run(main())


def test_an_error_is_for_all_who_asked_and_not_for_the_next() -> None:
    async def main() -> None:
        supervisor = Supervisor(OSError("it is gone"))
        others = Others(cast(Any, supervisor), {})
        for round_ in (1, 2):
            outcomes = await asyncio.gather(*(others.metrics(Counting()) for _ in range(3)), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [NotReady] * 3
            assert supervisor.sent == round_

    asyncio.run(main())
