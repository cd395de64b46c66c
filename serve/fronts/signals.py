"""Signals to a process that waits in a selector."""

import contextlib
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType

from serve.fronts.control import SIGNALS


@dataclass
class Orders:
    """What signals have asked for so far."""

    signals: list[int] = field(default_factory=list)


@contextlib.contextmanager
def noted(orders: Orders) -> Iterator[socket.socket]:
    """Notes SIGTERM and SIGINT, and gives a socket that is readable when one came."""

    def note(sig: int, _frame: FrameType | None) -> None:
        orders.signals.append(sig)

    wakeup, sender = socket.socketpair()
    wakeup.setblocking(False)
    sender.setblocking(False)
    before_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    before = {sig: signal.signal(sig, note) for sig in SIGNALS}
    try:
        yield wakeup
    finally:
        signal.set_wakeup_fd(before_fd)
        for sig, handler in before.items():
            signal.signal(sig, handler)
        wakeup.close()
        sender.close()
