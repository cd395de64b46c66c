"""``kill -9`` of the process of the engines under load: how soon the server is ready again, and what clients saw."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.proofs import Row, Verdict
from skipvit.arguments import whole

PACKAGES = ("uvicorn", "onnxruntime", "pillow", "numpy")
_READY_WITHIN_S = 5.0
_GIVE_UP_S = 60.0
_LOOK_EVERY_S = 0.01
_IN_A_ROW = 8  # connections, so that every front is asked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Gives the parser this command's arguments."""
    parser.add_argument("--kills", type=whole(1), default=5, help="of the engines' process (default: 5)")
    parser.add_argument("--seconds", type=float, default=12.0, help="of load before each (default: 12)")
    parser.add_argument("--clients", type=whole(1), default=32, help="connections (default: 32)")
    parser.add_argument("--fronts", type=whole(1), default=2, help="front processes (default: 2)")


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """A row for each kill, with what became of the requests that ended between it and the next."""
    from tqdm import tqdm

    from benchmarks.crowd import Crowd, counted
    from benchmarks.servers import form_and_body, free_ports, photo, server, write_mini_model

    marks: list[tuple[float, int, float]] = []
    with TemporaryDirectory() as scratch:
        models = write_mini_model(Path(scratch) / "models")
        [port] = free_ports(1)
        _, request = form_and_body(photo())
        command = [sys.executable, "-m", "serve", str(models), "--port", str(port), "--fronts", str(arguments.fronts)]
        with server(command, port) as pid, Crowd(port, request, arguments.clients) as crowd:
            for _ in tqdm(range(arguments.kills), desc="kills", leave=False):
                time.sleep(arguments.seconds)
                killed, in_flight = time.monotonic(), crowd.in_flight
                seconds = _kill_and_wait(pid, port)
                marks.append((killed, in_flight, seconds))
            time.sleep(arguments.seconds)
    rows: list[dict[str, object]] = []
    ends = [*(killed for killed, _, _ in marks[1:]), time.monotonic()]
    for number, ((killed, in_flight, seconds), end) in enumerate(zip(marks, ends, strict=True), 1):
        asked = [one for one in crowd.asked if killed < one.ended <= end]
        waited = [one.ended - killed for one in asked if one.sent < killed]
        rows.append(
            {
                "kill": number,
                "fronts": arguments.fronts,
                "clients": arguments.clients,
                "in_flight": in_flight,
                "ready_again_s": round(seconds, 2),
                "last_of_those_in_flight_s": round(max(waited, default=0.0), 3),
                **counted(asked),
            }
        )
    return rows


def verdicts(rows: Sequence[Row]) -> Iterable[Verdict]:
    """Judges the rows of one run."""
    slowest = max(float(str(row["ready_again_s"])) for row in rows)
    yield Verdict("ready again", f"<= {_READY_WITHIN_S:g} s", f"{slowest:g} s", slowest <= _READY_WITHIN_S)
    yield _none("requests that hung", rows, "hung")
    yield _none("requests neither answered nor told to come back", rows, "cut", "refused", "other")
    answered = min(int(str(row["answered"])) for row in rows)
    yield Verdict("requests answered after each kill", ">= 1", str(answered), answered >= 1)


def _none(what: str, rows: Sequence[Row], *columns: str) -> Verdict:
    found = sum(int(str(row[column])) for row in rows for column in columns)
    return Verdict(what, "0", str(found), found == 0)


def _kill_and_wait(pid: int, port: int) -> float:
    """Seconds from the death of the engines' process until another is ready."""
    import psutil

    def engines() -> list[psutil.Process]:
        return [child for child in psutil.Process(pid).children() if _is_engine(child)]

    [engine] = engines()
    killed = time.monotonic()
    engine.kill()
    _wait(lambda: engines() not in ([], [engine]))
    _wait(lambda: all(_is_ready(port) for _ in range(_IN_A_ROW)))
    return time.monotonic() - killed


def _is_engine(process: "object") -> bool:
    import psutil

    assert isinstance(process, psutil.Process)
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "serve.fronts.engine_process" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def _is_ready(port: int) -> bool:
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=_GIVE_UP_S) as answer:
            return bool(answer.status == 200)
    except OSError:  # 503 among them
        return False


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _GIVE_UP_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the server was not ready again within {_GIVE_UP_S:g} s")
        time.sleep(_LOOK_EVERY_S)
