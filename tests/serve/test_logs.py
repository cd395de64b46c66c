"""Log lines: JSON for machines, one unforgeable line for people."""

import io
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from serve.monitoring.log_lines import LinesHandler
from serve.monitoring.logs import JsonFormatter, TextFormatter
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
