"""The comparison with other servers: turns, rows of those that do not start, verdicts."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.cli import main
from benchmarks.peers import comparison, environment, rounds
from benchmarks.proofs import Row
from benchmarks.rows import read_rows
from benchmarks.servers import free_ports, server
from tests.serve.servers import wait_until, write_model


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own model, for which nothing needs to be exported."""

    def write(models: Path) -> Path:
        write_model(models)
        return models

    monkeypatch.setattr(rounds, "write_mini_model", write)


def test_servers_are_measured_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rounds, "available_cpus", lambda: 1)
    monkeypatch.setattr(rounds, "_WARM_UP_S", 0.1)
    short = ["--rounds", "1", "--seconds", "0.3", "--clients", "1", "32", "--only", "plain FastAPI", "skipvit"]
    assert main(["--out", str(tmp_path), "peers", *short]) == 1, "a comparison without peers proves nothing"
    found = read_rows("peers", tmp_path)
    assert [(row["server"], row["clients"]) for row in found] == [
        (name, clients)
        for name in (
            "plain FastAPI, 1 worker",
            *(f"{way}{by}" for by in ("", ", resized by Pillow") for way in (comparison.FORM, comparison.BODY)),
        )
        for clients in ["1", "32"]
    ]
    for row in found:
        assert (row["note"], row["failures"], row["rounds"]) == ("", "0", "1")
        assert min(float(row[column]) for column in ("p50_ms", "cpu_ms_per_request", "rss_mb")) > 0
    said = capsys.readouterr().out
    assert "met     plain FastAPI took part" in said
    assert "MISSED  LitServe took part" in said


def test_a_peer_that_cannot_start_is_a_row_that_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = str(tmp_path / "python")
    assert main(["--out", str(tmp_path), "peers", "--rounds", "1", "--only", "BentoML", "--python", nowhere]) == 1
    for row in read_rows("peers", tmp_path):
        assert nowhere in row["note"]
        assert (row["rounds"], row["requests_per_s"]) == ("0", "0.0")
    assert "MISSED  BentoML took part" in capsys.readouterr().out


def test_a_server_that_answers_otherwise_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_likeliest_of", lambda *_: 0.5)
    monkeypatch.setattr(rounds, "available_cpus", lambda: 1)
    assert main(["--out", str(tmp_path), "peers", "--rounds", "1", "--only", "plain FastAPI"]) == 1
    assert all("where the model says 0.5" in row["note"] for row in read_rows("peers", tmp_path))


def test_workers_that_outlive_their_server_are_ended(tmp_path: Path) -> None:
    script = tmp_path / "stubborn.py"
    script.write_text(
        "import http.server, subprocess, sys\n"
        "worker = 'import signal, time\\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\\n'\n"
        "worker += 'print(1, flush=True)\\ntime.sleep(600)'\n"
        "child = subprocess.Popen([sys.executable, '-c', worker], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "open(sys.argv[2], 'w').write(str(child.pid))\n"
        "class Ready(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200)\n"
        "        self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Ready).serve_forever()\n"
    )
    [port] = free_ports(1)
    told = tmp_path / "pid"
    with server([sys.executable, str(script), str(port), str(told)], port):
        worker = psutil.Process(int(told.read_text()))
        assert worker.is_running()
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 30)


def table(**changes: float) -> Iterator[Row]:
    """A run in which every number is met just so; ``changes`` are of our row with 32 clients, as a form."""
    for name in comparison.PEERS:
        for workers, rate in (("1 worker", 100.0), ("2 workers", 90.0)):
            yield row(f"{name}, {workers}", 1, p50_ms=3.0)
            yield row(f"{name}, {workers}", 32, requests_per_s=rate)
    for name, rate in ((comparison.FORM, 140.0), (comparison.BODY, 180.0)):
        yield row(name, 1, p50_ms=3.3)
        mine = {"requests_per_s": rate, "p99_ms": 70.0, **(changes if name == comparison.FORM else {})}
        yield row(name, 32, **mine)


def row(server: str, clients: int, **values: float) -> Row:
    usual = {"p50_ms": 10.0, "p99_ms": 100.0, "requests_per_s": 100.0, "cpu_ms_per_request": 4.0, "failures": 0}
    return {"server": server, "clients": clients, **usual, **values, "note": ""}


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"requests_per_s": 139.0}, ["requests/s"]),
        ({"p99_ms": 71.0}, ["p99"]),
        ({"cpu_ms_per_request": 4.1}, ["CPU"]),
        ({"failures": 1}, ["requests that failed"]),
    ],
)
def test_verdicts(changes: dict[str, float], missed: list[str]) -> None:
    verdicts = list(comparison.verdicts(list(table(**changes))))
    assert len(verdicts) == 4 + 5 + 1
    found = [verdict.what for verdict in verdicts if not verdict.met]
    assert len(found) == len(missed)
    assert all(what.startswith(start) for what, start in zip(found, missed, strict=True))


def test_the_peers_environment_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip, which would take minutes, is replaced by what it does when it fails."""
    monkeypatch.setenv("SKIPVIT_CACHE", str(tmp_path))
    made: list[Path] = []

    def install(python: Path) -> None:
        made.append(python)
        if len(made) == 1:
            raise environment.NoEnvironment("pip ended with status 1")

    monkeypatch.setattr(environment, "_install", install)
    monkeypatch.setattr(environment.subprocess, "run", lambda command, **_: os.makedirs(command[-1]))
    with pytest.raises(environment.NoEnvironment, match="status 1"):
        environment.python_of_peers()
    assert list(tmp_path.iterdir()) == []
    assert environment.python_of_peers() == environment.python_of_peers() == made[1]
    assert len(made) == 2, "what is there is not installed again"
