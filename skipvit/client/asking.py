"""Requests on their way: each was meant to start at some time, and ends with an answer, an error or a timeout.

All of it is callbacks of the event loop: a task and a timer for each request would cost as much as everything else.
"""

import asyncio
import functools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

# After a failure to connect or to read: a server that is gone is not to be asked as fast as the machine can.
_PAUSE_S = 0.05
# What exchanges know of; anything else is a mistake of this program.
_NO_ANSWER = (OSError, EOFError, ValueError)


Done = Callable[[int | Exception], None]
"""Told the status of an answer, or why there is none."""


class Exchange(Protocol):
    """A connection that carries one request at a time."""

    def ask(self, request: bytes, done: Done) -> None:
        """Sends a request; ``done`` is called later, with the answer's status or why there is none."""

    def close(self) -> None:
        """Gives the connection up; who waits for an answer is told nothing more, and the next request makes another."""


Connect = Callable[[], Exchange]


class Count(Protocol):
    """What is to be done with a request that is over: it was meant to start at ``intended``, of the loop's clock."""

    def __call__(self, intended: float, outcome: str) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """A request on its way."""

    intended: float
    exchange: Exchange


class Asking(ABC):
    """Requests that are not answered yet."""

    def __init__(self, timeout_s: float, count: Count) -> None:
        self._timeout_s = timeout_s
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._unanswered: dict[_Asked, None] = {}  # in the order of their times
        self._next_timeout: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()

    async def play(self) -> None:
        """Asks until all is done."""
        try:
            self._start()
            await self._over
        finally:
            self._close()

    @abstractmethod
    def _start(self) -> None:
        """Called when the first requests are to be sent."""

    @abstractmethod
    def _ended(self, exchange: Exchange, *, answered: bool) -> None:
        """Called when a request is over; without an answer its exchange was closed."""

    def _close(self) -> None:
        if self._next_timeout is not None:
            self._next_timeout.cancel()
        for asked in self._unanswered:
            asked.exchange.close()

    def _finish(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _send(self, request: bytes, intended: float, exchange: Exchange) -> None:
        asked = _Asked(intended, exchange)
        self._unanswered[asked] = None
        if self._next_timeout is None:
            self._watch(asked)
        exchange.ask(request, functools.partial(self._answered, asked))

    def _answered(self, asked: _Asked, answer: int | Exception) -> None:
        if isinstance(answer, int):
            self._end(asked, str(answer), answered=True)
        elif isinstance(answer, _NO_ANSWER):
            self._give_up(asked, _why(answer))
        elif not self._over.done():
            self._over.set_exception(answer)

    def _give_up(self, asked: _Asked, outcome: str) -> None:
        asked.exchange.close()
        self._end(asked, outcome, answered=False)

    def _end(self, asked: _Asked, outcome: str, *, answered: bool) -> None:
        del self._unanswered[asked]
        self._count(asked.intended, outcome)
        self._ended(asked.exchange, answered=answered)

    def _watch(self, asked: _Asked) -> None:
        self._next_timeout = self._loop.call_at(asked.intended + self._timeout_s, self._time_out, asked.intended)

    def _time_out(self, intended: float) -> None:
        """Gives up what is as old as ``intended``, and looks again when the next request will be overdue."""
        for asked in list(self._unanswered):
            if asked.intended > intended:
                break
            self._give_up(asked, "timeout")
        self._next_timeout = None
        for oldest in self._unanswered:
            self._watch(oldest)
            break


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    return "refused" if isinstance(error, ConnectionRefusedError) else "broken"


class AskingInTurns(Asking):
    """Asks over each of ``clients`` connections, as soon as its last request is over, until ``until``."""

    def __init__(
        self, timeout_s: float, count: Count, connect: Connect, requests: Iterator[bytes], clients: int, until: float
    ) -> None:
        super().__init__(timeout_s, count)
        self._connect = connect
        self._requests = requests
        self._left = clients
        self._until = until

    def _start(self) -> None:
        for exchange in [self._connect() for _ in range(self._left)]:
            self._ask(exchange)

    def _ask(self, exchange: Exchange) -> None:
        now = self._clock()
        if now < self._until and not self._over.done():
            self._send(next(self._requests), now, exchange)
            return
        exchange.close()
        self._left -= 1
        if not self._left:
            self._finish()

    def _ended(self, exchange: Exchange, *, answered: bool) -> None:
        if answered:
            self._ask(exchange)
        else:
            self._loop.call_later(_PAUSE_S, self._ask, exchange)


class AskingOnTime(Asking):
    """Asks each request of ``coming`` at its time, over one of so many connections.

    Args:
        coming: times in ascending order, and requests.
        late: told how late each was started.
    """

    def __init__(
        self,
        timeout_s: float,
        count: Count,
        connect: Connect,
        coming: Iterator[tuple[float, bytes]],
        max_connections: int,
        late: Callable[[float], None],
    ) -> None:
        super().__init__(timeout_s, count)
        self._connect = connect
        self._coming = coming
        self._late = late
        self._free = max_connections
        self._idle: list[Exchange] = []
        # No timer watches these: those that came before them are on their way, and give up their places in time.
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._all_came = False
        self._next_arrival: asyncio.TimerHandle | None = None

    def _start(self) -> None:
        self._await_next()

    def _await_next(self) -> None:
        now = self._clock()  # not again in the loop: a client that falls behind must read answers too
        for intended, request in self._coming:
            if intended > now:
                self._next_arrival = self._loop.call_at(intended, self._arrive, intended, request)
                return
            self._begin(intended, request)
        self._all_came = True
        self._finish_if_done()

    def _arrive(self, intended: float, request: bytes) -> None:
        self._begin(intended, request)
        self._await_next()

    def _begin(self, intended: float, request: bytes) -> None:
        now = self._clock()
        self._late(now - intended)
        intended = min(intended, now)  # some timers are up to a millisecond early
        if self._free:
            self._ask(intended, request)
        else:
            self._waiting.append((intended, request))

    def _ask(self, intended: float, request: bytes) -> None:
        self._free -= 1
        self._send(request, intended, self._idle.pop() if self._idle else self._connect())

    def _ended(self, exchange: Exchange, *, answered: bool) -> None:
        self._free += 1
        if answered:
            self._idle.append(exchange)
        if self._waiting:
            self._ask(*self._waiting.popleft())
        self._finish_if_done()

    def _finish_if_done(self) -> None:
        if self._all_came and not self._unanswered:
            self._finish()

    def _close(self) -> None:
        super()._close()
        if self._next_arrival is not None:
            self._next_arrival.cancel()
        for exchange in self._idle:
            exchange.close()
