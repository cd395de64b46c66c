"""The rest of a request whose answer is complete: read and thrown away, but not without end."""

import asyncio
from collections.abc import Callable
from typing import ClassVar

from serve.web.joined_writes import JoinedWrites


class Unread:
    """Counts what comes of one request past its answer, and takes leave of a client that does not end.

    A client that sends when its connection is closed is reset, and may lose an answer that it has not read yet. So what
    a request may send at all is read, and leave is taken by closing the way to the client, which then knows that
    nothing follows its answer; whoever sends on regardless, or falls silent, is closed. nginx calls it lingering.

    Args:
        most_bytes: taken before leave is taken, and as many after that.
        within_s: in which all of it must come.
        hang_up: closes the connection.
    """

    silent_s: ClassVar[float] = 5.0
    """After leave was taken, how long a client may say nothing and keep its connection."""

    def __init__(
        self,
        transport: JoinedWrites,
        loop: asyncio.AbstractEventLoop,
        most_bytes: int,
        within_s: float,
        hang_up: Callable[[], object],
    ) -> None:
        self.leaving = False
        self._transport = transport
        self._loop = loop
        self._left = most_bytes
        self._most_bytes = most_bytes
        self._by = loop.time() + within_s
        self._hang_up = hang_up
        self._timer: asyncio.TimerHandle | None = None

    def take(self, size: int) -> None:
        """Takes note of so many bytes more."""
        self._left -= size
        if self.leaving:
            if self._left < 0:
                self._hang_up()
        elif self._left < 0 or self._loop.time() >= self._by:
            self.take_leave()

    def take_leave(self) -> None:
        """Closes the way to the client."""
        self.leaving = True
        self._left = self._most_bytes
        self._transport.close_half()
        self._wait()

    def _wait(self) -> None:
        self._timer = self._loop.call_later(self.silent_s, self._look, self._left)

    def _look(self, left_before: int) -> None:
        if self._left == left_before or self._loop.time() >= self._by:
            self._hang_up()
        else:
            self._wait()

    def forget(self) -> None:
        """Called when the connection is lost."""
        if self._timer is not None:
            self._timer.cancel()
