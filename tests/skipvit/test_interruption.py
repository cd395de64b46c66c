"""Signals end a program by an exception, and nothing is said of what was half made when they came."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal
from skipvit.interruption import end_by_exception

class HalfMade:
    def __init__(self):
        os.kill(os.getpid(), {number})
        print("still here", flush=True)
        signal.pause()
        self.whole = True
    def __del__(self):
        assert self.whole

if {ignored}:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
end_by_exception()
try:
    HalfMade()
except KeyboardInterrupt:
    print("cleaned up")
"""


def run(number: int, *, ignored: bool = False) -> subprocess.Popen[str]:
    program = PROGRAM.format(number=int(number), ignored=ignored)
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_either_signal_is_an_exception_and_half_made_objects_are_silent(number: int) -> None:
    assert run(number).communicate(timeout=60) == ("cleaned up\n", "")


def test_an_interrupt_that_is_ignored_stays_so() -> None:
    """As of programs that a shell runs in the background."""
    with run(signal.SIGINT, ignored=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "still here\n"
        program.terminate()
        assert program.communicate(timeout=60) == ("cleaned up\n", "")
