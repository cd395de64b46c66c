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
    """Writes to ``stream`` within a tenth of a second; a warning or worse at once, with all that came before it.

    The collector of garbage may run anywhere here, and what it finalizes may log: nothing that a thread holds may stop
    that same thread.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._process = 0
        self._starting = threading.RLock()
        self._over = False
        self._renew()

    def _renew(self) -> None:
        self._lines: deque[str] = deque()  # appended and taken by several threads
        self._written = threading.RLock()
        self._writing = False
        self._none = threading.Lock()  # held while there is nothing to be written
        self._none.acquire()

    def handle(self, record: logging.LogRecord) -> bool:
        """As logging does, without its lock: who has that would wait for the one that writes, which may log too."""
        passed = bool(self.filter(record))
        if passed:
            self.emit(record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """Called by several threads at once."""
        try:
            line = f"{self.format(record)}\n"
        except Exception:  # as logging's own handlers do: a line that cannot be made is reported, not raised
            self.handleError(record)
            return
        self._start()
        self._lines.append(line)
        if record.levelno >= logging.WARNING or len(self._lines) >= _MOST_LINES or self._over:
            self.flush()
        else:
            self._wake()

    def flush(self) -> None:
        """Writes what is there; logging does so too when the process ends."""
        if self._process != os.getpid():
            return  # after a fork the lines are the parent's to write
        with self._written:  # so that lines keep their order
            if self._writing:  # by this thread, further up
                self._wake()
                return
            self._writing = True
            try:
                self._write("".join(self._lines.popleft() for _ in range(len(self._lines))))
            finally:
                self._writing = False

    def close(self) -> None:
        """Called when the process ends, and its threads with it: what is logged after that is written at once."""
        self._over = True
        super().close()

    def _write(self, lines: str) -> None:
        if lines:
            with suppress(OSError, ValueError):  # closed, or full: there is nowhere left to say so
                self._stream.write(lines)
                self._stream.flush()

    def _wake(self) -> None:
        if self._none.locked():
            with suppress(RuntimeError):  # another was faster
                self._none.release()

    def _start(self) -> None:
        """In a process that has no thread for it yet: the first, or one that was forked."""
        if self._process == os.getpid():
            return
        with self._starting:
            if self._process != os.getpid():
                self._renew()
                threading.Thread(target=self._write_now_and_then, args=(self._none,), name="log", daemon=True).start()
                self._process = os.getpid()

    def _write_now_and_then(self, none: threading.Lock) -> None:
        while none.acquire():  # a line that comes from here on lets go of it again
            time.sleep(_EVERY_S)
            self.flush()
