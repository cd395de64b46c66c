"""Noticing that a client hangs up while its answer is made, so that nothing more is done for it."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from starlette.types import Receive, Scope

from serve.web.asgi import ClientGone

HANG_UP = "skipvit.hang_up"
"""The name, in a scope, of a connection's ``HangUp``, where the server that speaks HTTP has one."""
# Most answers are ready by then; only a request that really waits pays for a task that watches its connection.
_WATCH_AFTER_S = 0.02


class HangUp:
    """Told by the connection of a request that its client is gone; tells whoever waits for the answer.

    ``listen`` has the connection read on, without which no end of it is noticed.
    """

    __slots__ = ("_happened", "_listen", "_tell")

    def __init__(self, listen: Callable[[], object]) -> None:
        self._listen = listen
        self._happened = False
        self._tell: Callable[[], object] | None = None

    def happen(self) -> None:
        """Called by the connection, once, on the event loop."""
        self._happened = True
        if self._tell is not None:
            self._tell()

    async def before(self, finished: "asyncio.Future[None]") -> None:
        """Waits for ``finished``, which fails with ClientGone if the client is gone before."""
        self._tell = lambda: _fail(finished)
        try:
            if self._happened:
                _fail(finished)
            else:
                self._listen()
            await finished
        finally:
            self._tell = None


class Client(NamedTuple):
    """Who asked, as ASGI knows it."""

    scope: Scope
    receive: Receive

    async def unless_gone(self, finished: "asyncio.Future[None]") -> None:
        """Waits for ``finished``, of the running loop, or raises ClientGone as soon as the client hangs up."""
        hang_up: HangUp | None = self.scope.get(HANG_UP)
        if hang_up is not None:
            await hang_up.before(finished)
        else:
            await self._watched(finished)

    async def _watched(self, finished: "asyncio.Future[None]") -> None:
        """As any server of ASGI has it: whoever wants to know must wait for a message, which takes a task."""
        loop = finished.get_loop()
        watcher: asyncio.Task[None] | None = None

        async def watch() -> None:
            while (await self.receive())["type"] != "http.disconnect":
                pass
            _fail(finished)

        def start_watching() -> None:
            nonlocal watcher
            watcher = loop.create_task(watch())

        timer = loop.call_later(_WATCH_AFTER_S, start_watching)
        try:
            await finished
        finally:
            timer.cancel()
            if watcher is not None:
                watcher.cancel()


def _fail(finished: "asyncio.Future[None]") -> None:
    if not finished.done():
        finished.set_exception(ClientGone())
