"""How urgent a request is: by when its answer is wanted, and whose turn comes first.

X-Request-Timeout gives a request so many seconds from its first byte to the first byte of its answer. A timer of the
event loop watches them, not the engine: when they are over, the client is told at once, and what was not yet computed
never is. X-Request-Priority is high, normal or low; see ``serve.turns`` for what it does.
"""

import asyncio
import math
from enum import IntEnum
from types import TracebackType
from typing import Self

from serve.errors import BadField, DeadlineExceeded, RequestError, quoted

TIMEOUT = "X-Request-Timeout"
PRIORITY = "X-Request-Priority"
SHORTEST_S = 0.001
LONGEST_S = 3600.0
_MAX_DIGITS = 32


class Priority(IntEnum):
    """The smaller, the sooner; the numbers are Triton's."""

    HIGH = 1
    NORMAL = 2
    LOW = 3


_NAMES = {"high": Priority.HIGH, "normal": Priority.NORMAL, "low": Priority.LOW}


def parse_timeout(text: str | None, wrong: type[RequestError] = BadField) -> float | None:
    """The seconds of a header's value, a decimal number from 0.001 to 3600; None where there is none.

    Raises:
        RequestError: it is none; of the kind ``wrong``.
    """
    if text is None:
        return None
    try:
        seconds = float(text) if len(text) <= _MAX_DIGITS and text.isascii() and "_" not in text else math.nan
    except ValueError:
        seconds = math.nan
    if not SHORTEST_S <= seconds <= LONGEST_S:  # false for NaN
        raise wrong(
            "bad_timeout",
            f"{TIMEOUT} is {quoted(text)}, seconds from {SHORTEST_S:g} to {LONGEST_S:g} were needed",
            f"leave it out, or send a decimal number such as {TIMEOUT}: 2.5",
        )
    return seconds


def parse_priority(text: str | None, wrong: type[RequestError] = BadField) -> Priority:
    """The priority that a header names; normal where there is none.

    Raises:
        RequestError: it names none; of the kind ``wrong``.
    """
    if text is None:
        return Priority.NORMAL
    priority = _NAMES.get(text)
    if priority is None:
        raise wrong(
            "bad_priority",
            f"{PRIORITY} is {quoted(text)}, {', '.join(_NAMES)} was needed",
            "leave it out for normal",
        )
    return priority


class Deadline:
    """The end of a request's time. Inside ``async with`` it cancels what goes on, and raises DeadlineExceeded.

    Args:
        seconds: from now; None for no end.
        most_s: what the server allows a request, which wins where it is less; 0 for no limit.
    """

    __slots__ = ("_begun", "_timer", "seconds")

    def __init__(self, seconds: float | None = None, most_s: float = 0.0) -> None:
        self.seconds = min(seconds, most_s) if seconds and most_s else seconds or most_s or None
        self._begun = asyncio.get_running_loop().time()
        self._timer = asyncio.timeout_at(None if self.seconds is None else self._begun + self.seconds)

    def within(self, seconds: float) -> None:
        """Brings the end forward to so many seconds after the request began, if it is later than that."""
        if self.seconds is None or seconds < self.seconds:
            self.seconds = seconds
            self._timer.reschedule(self._begun + seconds)

    def met(self) -> None:
        """The answer has begun: from now on there is no end."""
        if self.seconds is not None:
            self._timer.reschedule(None)

    async def __aenter__(self) -> Self:
        await self._timer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timer.__aexit__(kind, error, trace)
        except TimeoutError:
            raise DeadlineExceeded(self.seconds or 0.0) from None
