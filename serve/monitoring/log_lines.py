"""Log lines on their way to a stream: in good time, and many at once.

A write lets go of the interpreter's lock, and the event loop then waits for it behind the threads that decode: a tenth
of a millisecond for the line of each request. So lines below a warning are written by a thread, ten times a second.
"""

import logging
import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TextIO

_EVERY_S = 0.1
_MOST_LINES = 2000


class LinesHandler(logging.Handler):
    """Writes to ``stream`` within a tenth of a second; a warning or worse at once, with all that came before it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[str] = deque()  # appended and taken by several threads
        self._written = threading.Lock()
        self._some = threading.Event()
        self._process = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Called with this handler's lock held, as logging does."""
        try:
            line = f"{self.format(record)}\n"
        except Exception:  # as logging's own handlers do: a line that cannot be made is reported, not raised
            self.handleError(record)
            return
        if self._process != os.getpid():
            self._start()
        self._lines.append(line)
        if record.levelno >= logging.WARNING or len(self._lines) >= _MOST_LINES:
            self.flush()
        elif not self._some.is_set():
            self._some.set()

    def flush(self) -> None:
        """Writes what is there; logging does so too when the process ends."""
        if self._process != os.getpid():
            return  # after a fork the lines are the parent's to write
        with self._written:  # so that lines keep their order
            lines = "".join(self._lines.popleft() for _ in range(len(self._lines)))
            with suppress(OSError, ValueError):  # closed, or full: there is nowhere left to say so
                self._stream.write(lines)
                self._stream.flush()

    def _start(self) -> None:
        """In a process that has no thread for it yet: the first, or one that was forked."""
        self._process = os.getpid()
        self._lines, self._written, self._some = deque(), threading.Lock(), threading.Event()
        threading.Thread(target=self._write_now_and_then, args=(self._some,), name="log", daemon=True).start()

    def _write_now_and_then(self, some: threading.Event) -> None:
        while some.wait():
            time.sleep(_EVERY_S)
            some.clear()  # before they are taken: a line that comes meanwhile sets it again
            self.flush()
