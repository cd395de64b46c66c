"""How the system shares its cores out between the server's threads: in long slices, each for one of them.

A thread that wakes up takes its core at once, by default: the event loop, a hundred times in a second, from a thread
that decodes or computes, whose caches are cold when it goes on. What is asked of a busy server is that all of it is
done soon, not that each part begins at once. With SCHED_BATCH a thread that wakes up waits for the end of a slice, if
no core is free; other programs of the machine still come first.
"""

import ctypes
import errno
import os
import platform
import struct

# Long beside what a picture needs of each thread, short beside what a person or a probe notices.
_SLICE_NS = 20_000_000
# Numbers of the system calls sched_setattr and sched_getattr; C libraries know them since glibc 2.41.
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period


def take_long_slices() -> str:
    """Has this thread, and whatever it starts, run in long slices where the system can; says what is so.

    Call it before other threads are started. A policy that the server was started with, such as by ``chrt``, is kept.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return "threads run in the system's slices: it has no others"
    try:
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            return "threads run in slices as the server was started with"
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        return f"threads run in the system's slices: {error.strerror}"
    if missing := _lengthen():
        return f"threads run as a batch, in the system's slices: {missing}"
    return f"threads run as a batch, in slices of up to {_SLICE_NS // 1_000_000} ms"


def _lengthen() -> str:
    """Asks for the slices; returns why they are not had, or nothing."""
    if platform.machine() not in _CALLS:
        return os.strerror(errno.ENOSYS)
    ask, look = _CALLS[platform.machine()]
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = _SCHED_ATTR.pack(_SCHED_ATTR.size, os.SCHED_BATCH, 0, nice, 0, _SLICE_NS, 0, 0)
    found = ctypes.create_string_buffer(_SCHED_ATTR.size)
    library = ctypes.CDLL(None, use_errno=True)
    if library.syscall(ask, 0, wanted, 0) or library.syscall(look, 0, found, len(found), 0):
        return os.strerror(ctypes.get_errno())
    slice_ns = _SCHED_ATTR.unpack(found.raw)[5]
    return "" if slice_ns == _SLICE_NS else "Linux has no others before 6.12"  # it does not refuse them
