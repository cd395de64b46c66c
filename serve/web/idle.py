"""Connections on which no request is being answered: kept open for the next one, but not without end in number."""

import sys
from collections import OrderedDict
from typing import Protocol

_MOST = 2048


class Idle(Protocol):
    """A connection on which nothing is being answered."""

    def hang_up(self) -> None:
        """Closes it."""


class IdleConnections:
    """Those of one server. Whoever was idle longest is closed when there are more than ``most``.

    A connection is idle from its first moment, or the end of an answer, until a whole head of a request has come: one
    that sends a byte now and then is no better than one that sends none.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._longest_first: OrderedDict[Idle, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._longest_first)

    def add(self, connection: Idle) -> None:
        """Takes note of a connection that is idle from now on."""
        self._longest_first[connection] = None
        if len(self._longest_first) > self.most:
            longest, _ = self._longest_first.popitem(last=False)
            longest.hang_up()

    def discard(self, connection: Idle) -> None:
        """Takes note of one that is no longer idle, or no longer there."""
        self._longest_first.pop(connection, None)


def most_idle(setting: int) -> int:
    """How many may be idle: the setting, or for 0 half of the files that this process may open, and 2048 at most."""
    if setting or sys.platform == "win32":
        return setting or _MOST
    import resource  # which Windows has not

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else max(1, min(_MOST, soft // 2))
