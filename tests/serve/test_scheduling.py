"""How the server asks for its slices of the cores; each test has a process of its own, which it changes."""

import ctypes
import errno
import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import psutil
import pytest

from serve import scheduling
from tests.serve.test_cli import program

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has SCHED_BATCH")

_SINCE = (6, 12)  # of Linux, which has let threads of other than real time choose their slices since then


def in_a_process(code: str, *before: str) -> str:
    command = [*before, sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def slice_of(thread: int) -> int:
    """Nanoseconds, as the system says."""
    found = ctypes.create_string_buffer(scheduling._SCHED_ATTR.size)
    _, number = scheduling._CALLS[platform.machine()]
    assert ctypes.CDLL(None).syscall(number, thread, found, len(found), 0) == 0
    return cast(int, scheduling._SCHED_ATTR.unpack(found.raw)[5])


def linux() -> tuple[int, int]:
    major, minor = platform.release().split(".")[:2]
    return int(major), int(minor)


def policies_of(server: psutil.Process) -> set[int]:
    """Of the event loops of all of its processes."""
    return {os.sched_getscheduler(one.pid) for one in (server, *server.children(recursive=True))}


def policies_of_threads(process: psutil.Process) -> set[int]:
    """Of those beside the event loop's that do not end while they are looked at."""
    found = set()
    for thread in (int(task.name) for task in Path(f"/proc/{process.pid}/task").iterdir()):
        with suppress(ProcessLookupError):
            found |= {os.sched_getscheduler(thread)} if thread != process.pid else set()
    return found


@pytest.fixture
def can_batch() -> None:
    """The system lets a process that was started like this one run as a batch."""
    code = (
        "import os; before = os.sched_getscheduler(0); os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0));"
        "print(before)"
    )
    try:
        before = in_a_process(code)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"processes may not run as a batch here: {error.stderr}")
    if int(before) != os.SCHED_OTHER:
        pytest.skip("the tests run with a policy that was chosen outside, which is kept")


@pytest.mark.usefixtures("can_batch")
@pytest.mark.parametrize("fronts", [[], ["--fronts", "1"]], ids=["alone", "fronts"])
def test_a_server_runs_as_a_batch(models_dir: Path, fronts: list[str]) -> None:
    with program(models_dir, *fronts) as (process, _):
        server = psutil.Process(process.pid)
        assert policies_of(server) == {os.SCHED_BATCH}
        assert os.SCHED_BATCH in policies_of_threads(server)  # and what libraries started before that, as it was
        for child in server.children(recursive=True):  # whatever was started there was started after that
            assert policies_of_threads(child) == {os.SCHED_BATCH}
        if linux() >= _SINCE and platform.machine() in scheduling._CALLS:
            slices = {slice_of(one.pid) for one in (server, *server.children(recursive=True))}
            assert slices == {scheduling._SLICE_NS}


def test_a_server_leaves_scheduling_to_the_system(models_dir: Path) -> None:
    with program(models_dir, "--scheduling", "system") as (process, _):
        assert policies_of(psutil.Process(process.pid)) == {os.sched_getscheduler(0)}


def test_what_was_chosen_outside_is_kept() -> None:
    code = (
        "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0));"
        "from serve.scheduling import take_long_slices; print(take_long_slices());"
        "assert os.sched_getscheduler(0) == os.SCHED_IDLE"
    )
    assert in_a_process(code) == "threads run in slices as the server was started with"


def test_niceness_is_kept() -> None:
    code = (
        "import os; os.nice(7); before = os.getpriority(os.PRIO_PROCESS, 0);"
        "from serve.scheduling import take_long_slices; take_long_slices();"
        "assert os.getpriority(os.PRIO_PROCESS, 0) == before > 0, before; print('kept')"
    )
    assert in_a_process(code) == "kept"


@pytest.mark.parametrize("call", ["sched_getscheduler", "sched_setscheduler"])
def test_a_system_that_allows_none_says_so(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """As seccomp does; and musl's calls, both of which do nothing."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_OTHER)
    monkeypatch.setattr(os, call, refuse)
    assert scheduling.take_long_slices() == "threads run in the system's slices: Operation not permitted"


def test_a_machine_whose_calls_are_not_known_runs_as_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_OTHER)
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: None)
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    said = scheduling.take_long_slices()
    assert said == "threads run as a batch, in the system's slices: Function not implemented"


def test_a_system_that_passes_the_slices_over_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux did before 6.12: it took them for other policies only, and says zero of this one."""
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_OTHER)
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: None)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(ctypes, "CDLL", Mock(return_value=Mock(syscall=Mock(return_value=0))))
    said = scheduling.take_long_slices()
    assert said == "threads run as a batch, in the system's slices: Linux has no others before 6.12"


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "SCHED_BATCH")
    assert "it has no others" in scheduling.take_long_slices()
