"""When to ask again: after 429, 503 and a refused connection; as late as the server says, with jitter, to a deadline.

Nothing here sends or sleeps, so that every rule can be tested without a server or a clock.
"""

import random
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

from skipvit.client.errors import ClientError, DeadlineExceeded, NotReady, Overloaded, Unreachable

_MAX_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Retries:
    """How often to ask again, and how long to wait.

    Attributes:
        count: most retries of one call; 0 asks once.
        first_s: longest wait before the first retry where the server gives none; it doubles with every retry.
        longest_s: longest such wait.
    """

    count: int = 5
    first_s: float = 0.25
    longest_s: float = 8.0


class Attempts:
    """The attempts of one call.

    Args:
        left_s: seconds until the call's deadline, counted from now.
        now: a clock in seconds.
        jitter: gives a number between its two arguments.
    """

    def __init__(
        self, retries: Retries, left_s: float, now: float | None = None, jitter: random.Random | None = None
    ) -> None:
        self._retries = retries
        self._deadline = (time.monotonic() if now is None else now) + left_s
        self._timeout_s = left_s
        self._random = jitter or random.Random()
        self._failed = 0
        self.last: ClientError | None = None

    def pause_after(self, error: ClientError, now: float | None = None) -> float:
        """Seconds to wait before asking again.

        The server's Retry-After is waited for in full; what is added is random, so that clients that were refused
        together do not come back together.

        Raises:
            ClientError: ``error`` itself, if it is not to be asked again: asking again would change nothing, there were
                as many retries as may be, or the deadline would come first.
        """
        self.last = error
        if self._failed >= self._retries.count or not _worth_retrying(error):
            raise error
        longest = min(self._retries.longest_s, self._retries.first_s * 2**self._failed)
        asked = error.retry_after_s if isinstance(error, Overloaded | NotReady) else None
        pause = (asked or 0.0) + self._random.uniform(0.0, longest)
        if (time.monotonic() if now is None else now) + pause >= self._deadline:
            raise error
        self._failed += 1
        return pause

    def left_s(self, now: float | None = None) -> float:
        """Seconds until the deadline."""
        return self._deadline - (time.monotonic() if now is None else now)

    def out_of_time(self) -> DeadlineExceeded:
        """What to raise when the deadline came while an answer was waited for."""
        before = f"; before that: {self.last.message}" if self.last else ""
        return DeadlineExceeded(
            f"no answer within {self._timeout_s:g} s{before}", "give it longer (timeout_s, --timeout), or ask for less"
        )


def _worth_retrying(error: ClientError) -> bool:
    return isinstance(error, Overloaded | NotReady) or (isinstance(error, Unreachable) and error.refused)


def parse_retry_after(value: str, date: str = "", now: float | None = None) -> float | None:
    """Seconds to wait, from a Retry-After header: digits or an HTTP date (RFC 9110, 10.2.3); None for anything else.

    Args:
        date: the answer's Date header. A date to come back at is counted from it, so that a clock that is wrong on
            either side does no harm; without it, from ``now``, in seconds since the epoch.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value) if len(value) <= _MAX_DIGITS else None
    until = _seconds_of(value)
    if until is None:
        return None
    since = _seconds_of(date.strip())
    if since is None:
        since = time.time() if now is None else now
    return max(0.0, until - since)


def _seconds_of(text: str) -> float | None:
    """An HTTP date in seconds since the epoch."""
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
