"""Signals that end a program as Ctrl-C does: by an exception, so that what was begun is cleaned up."""

import signal
import sys
from types import FrameType


def end_by_exception() -> None:
    """Has SIGTERM raise KeyboardInterrupt, as SIGINT does; for programs, in their main thread.

    Either may come while an object is half made, such as a progress bar. What Python would say when that object goes
    is then left out: it looks like a crash, and says nothing about what was asked for.
    """
    signal.signal(signal.SIGTERM, _leave)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # who started this may want it ignored
        signal.signal(signal.SIGINT, _leave)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.unraisablehook = lambda _: None
    raise KeyboardInterrupt
