"""A process of a server with fronts, started with a connection to the supervisor."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from serve.fronts.control import SIGNALS

Role = Literal["engine", "front"]
_ROOT = Path(__file__).resolve().parents[2]


def spawn(role: Role) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Starts a process, and returns it and the supervisor's end of its control connection.

    Raises:
        OSError: the system has no process, memory or descriptor to give.
    """
    ours, theirs = socket.socketpair()
    environment = {**os.environ, "PYTHONPATH": _python_path(), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", f"serve.fronts.{role}_process"]
    with theirs, _held_back():
        fd = theirs.fileno()
        try:
            process = subprocess.Popen([*command, str(fd)], env=environment, stdin=subprocess.DEVNULL, pass_fds=[fd])
        except OSError:
            ours.close()
            raise
    return process, ours


def _python_path() -> str:
    return os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Holds signals back from a process that is started, until it takes them itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
