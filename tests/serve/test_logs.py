"""Log lines: JSON for machines, one unforgeable line for people."""

import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from serve.monitoring.log_lines import LinesHandler
from serve.monitoring.logs import JsonFormatter, TextFormatter, flush_log
from tests.serve.servers import wait_until

ROOT = Path(__file__).resolve().parents[2]


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("serve.access", logging.INFO, "f.py", 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_json_lines_carry_the_fields() -> None:
    line = json.loads(JsonFormatter().format(record("request", fields={"status": 200, "path": "/a\nb"})))
    assert line["level"] == "info"
    assert line["status"] == 200
    assert line["path"] == "/a\nb"
    assert line["time"].endswith("Z")


def test_json_lines_carry_exceptions() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        made = logging.LogRecord("serve", logging.ERROR, "f.py", 1, "failed", (), sys.exc_info())
    line = json.loads(JsonFormatter().format(made))
    assert "ValueError: broken" in line["exception"]


def test_text_lines_cannot_be_forged() -> None:
    text = TextFormatter().format(
        record("request", request_id="r1", fields={"path": "/a\n12:00:00 error hacked\x1b[2J"})
    )
    assert "\n" not in text
    assert "\x1b" not in text
    assert "request_id=r1" in text
    assert r"\n12:00:00" in text


def test_text_fields_cannot_be_forged() -> None:
    text = TextFormatter().format(record("request", fields={"path": "/a status=200 key=ops", "status": 401}))
    assert text.endswith("request path='/a status=200 key=ops' status=401")


class Gathered(io.StringIO):
    """A stream that says what each flush brought."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed: list[str] = []

    def flush(self) -> None:
        self.flushed.append(self.getvalue())


def handled(handler: LinesHandler, message: str, level: int = logging.INFO) -> None:
    handler.handle(logging.LogRecord("serve.access", level, "f.py", 1, message, (), None))


def test_lines_are_written_soon_by_another_thread() -> None:
    stream = Gathered()
    handler = LinesHandler(stream)
    handled(handler, "one")
    handled(handler, "two")
    wait_until(lambda: stream.getvalue() == "one\ntwo\n")
    handled(handler, "three")  # the thread goes on after its first
    wait_until(lambda: stream.getvalue() == "one\ntwo\nthree\n")


def test_warnings_are_written_at_once_after_what_came_before() -> None:
    stream = Gathered()
    handler = LinesHandler(stream)
    for number in range(3):
        handled(handler, str(number))
    handled(handler, "beware", logging.WARNING)
    assert stream.flushed[-1] == "0\n1\n2\nbeware\n"


def test_no_line_of_many_threads_is_lost_or_doubled() -> None:
    stream = Gathered()
    handler = LinesHandler(stream)

    def write(who: int) -> None:
        for number in range(500):
            handled(handler, f"{who} {number}", logging.WARNING if number % 50 == 0 else logging.INFO)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.flush()
    lines = stream.getvalue().splitlines()
    for who in range(4):
        assert [line for line in lines if line.startswith(f"{who} ")] == [f"{who} {number}" for number in range(500)]


def test_lines_of_a_forked_process_and_of_one_that_ends(tmp_path: Path) -> None:
    """A child neither writes its parent's lines again nor loses its own; nothing waits for a tenth of a second."""
    script = tmp_path / "forks.py"
    script.write_text(
        "import logging, os, sys\n"
        "from serve.monitoring.log_lines import LinesHandler\n"
        "logger = logging.getLogger()\n"
        "logger.setLevel(logging.INFO)\n"
        "logger.addHandler(LinesHandler(sys.stderr))\n"
        "logger.info('before')\n"
        "child = os.fork()\n"
        "logger.info('parent' if child else 'child')\n"
        "if child:\n"
        "    os.waitpid(child, 0)\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert sorted(done.stderr.split()) == ["before", "child", "parent"]


class Logging(io.StringIO):
    """A stream whose first write logs: as a task's finalizer does if the collector of garbage runs just then."""

    handler: LinesHandler

    def write(self, text: str) -> int:
        first = not self.getvalue()
        written = super().write(text)
        if first:
            handled(self.handler, "never retrieved", logging.ERROR)
            handled(self.handler, "by the way")
        return written


def ends(work: Callable[[], object]) -> bool:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    return not thread.is_alive()


@pytest.mark.parametrize("level", [logging.WARNING, logging.INFO])
def test_what_is_logged_while_lines_are_written_stops_nothing(level: int) -> None:
    stream = Logging()
    stream.handler = LinesHandler(stream)
    assert ends(lambda: handled(stream.handler, "first", level))
    wait_until(lambda: stream.getvalue() == "first\nnever retrieved\nby the way\n")


def test_two_threads_that_log_while_one_writes_and_logs_itself() -> None:
    """The one that writes must not wait for the one that waits for it."""
    writes, waits = threading.Event(), threading.Event()

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            if not writes.is_set():
                writes.set()
                waits.wait(60)
                handled(handler, "from within", logging.ERROR)
            return super().write(text)

    stream = Slow()
    handler = LinesHandler(stream)
    handled(handler, "by the thread")
    assert writes.wait(60)
    assert ends(lambda: second(handler, waits))
    wait_until(lambda: sorted(stream.getvalue().split()) == ["by", "from", "second", "the", "thread", "within"])


def second(handler: LinesHandler, waits: threading.Event) -> None:
    """Logs while the other is held in its write, and lets it go on once this one waits for it."""
    threading.Timer(0.2, waits.set).start()
    handled(handler, "second", logging.WARNING)


class Unread(io.StringIO):
    """A stream like a pipe that is full, until it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.read_on = threading.Event()

    def write(self, text: str) -> int:
        self.read_on.wait()
        return super().write(text)


def test_a_process_ends_although_nobody_reads_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Unread()
    handler = LinesHandler(stream)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    handled(handler, "one")
    try:
        assert ends(lambda: flush_log(0.01))
    finally:
        stream.read_on.set()
    flush_log(60.0)
    assert stream.getvalue() == "one\n"


def test_lines_after_the_log_was_closed_are_written(tmp_path: Path) -> None:
    """What runs after logging's own last flush, such as the work of a thread that goes on, has its lines too."""
    script = tmp_path / "late.py"
    script.write_text(
        "import atexit\n"
        "atexit.register(lambda: logger.info('late'))  # before logging's, and so run after it\n"
        "import logging, sys\n"
        "from serve.monitoring.log_lines import LinesHandler\n"
        "logger = logging.getLogger()\n"
        "logger.setLevel(logging.INFO)\n"
        "logger.addHandler(LinesHandler(sys.stderr))\n"
        "logger.info('in time')\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr.split("\n") == ["in time", "late", ""]


def test_a_stream_that_is_gone_stops_nothing() -> None:
    stream = io.StringIO()
    handler = LinesHandler(stream)
    stream.close()
    handled(handler, "nobody reads this", logging.ERROR)


@pytest.mark.parametrize(
    ("created", "written"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (0.9996, "1970-01-01T00:00:00.999Z"),
        (951_782_399.5, "2000-02-28T23:59:59.500Z"),
        (951_782_400.25, "2000-02-29T00:00:00.250Z"),
    ],
)
def test_times_are_of_the_record(created: float, written: str) -> None:
    assert json.loads(JsonFormatter().format(record("one", created=created)))["time"] == written
    assert json.loads(JsonFormatter().format(record("same second", created=created)))["time"] == written
