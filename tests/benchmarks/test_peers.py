"""The comparison with other servers: turns beside a peer, rows of those that do not start, verdicts."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.cli import main
from benchmarks.peers import blocks, comparison, environment, rounds
from benchmarks.proofs import Row
from benchmarks.rows import read_rows
from benchmarks.servers import free_ports, server, tree
from skipvit.client.load import Measurement
from tests.serve.servers import wait_until, write_model


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own model, for which nothing needs to be exported."""

    def write(models: Path) -> Path:
        write_model(models)
        return models

    monkeypatch.setattr(rounds, "write_mini_model", write)


def test_ours_is_measured_in_turns_beside_a_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(blocks, "available_cpus", lambda: 1)
    monkeypatch.setattr(rounds, "_WARM_UP_S", 0.1)
    short = ["--rounds", "1", "--seconds", "0.4", "--clients", "1", "4", "--only", "plain FastAPI"]
    assert main(["--out", str(tmp_path), "peers", *short]) == 1, "a comparison without peers proves nothing"
    found = read_rows("peers", tmp_path)
    plain = "plain FastAPI, 1 worker"
    form, body = comparison.FORM, comparison.BODY
    ours = [form, body, f"{form}, our decoder", f"{form}, all by Pillow", f"{body}, all by Pillow"]
    assert [(row["beside"], row["server"], row["clients"]) for row in found] == [
        (plain, name, clients) for name in (plain, *ours) for clients in ["1", "4"]
    ]
    for row in found:
        assert (row["note"], row["failures"], row["rounds"]) == ("", "0", "1")
        assert min(float(row[column]) for column in ("p50_ms", "rss_mb")) > 0
    said = capsys.readouterr().out
    assert "met     plain FastAPI took part" in said
    assert "MISSED  LitServe took part" in said
    assert "beside it: needed <= 0.3 ms, found" in said


def test_a_peer_that_cannot_start_is_a_row_that_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = str(tmp_path / "python")
    assert main(["--out", str(tmp_path), "peers", "--rounds", "1", "--only", "BentoML", "--python", nowhere]) == 1
    for row in read_rows("peers", tmp_path):
        assert (row["rounds"], row["requests_per_s"], row["times_the_peer"]) == ("0", "0.0", "")
        why = nowhere if row["server"] == row["beside"] else f"not finished, because of {row['beside']}"
        assert why in row["note"]
    said = capsys.readouterr().out
    assert "MISSED  BentoML took part" in said
    assert "found not measured" in said


def test_a_server_that_answers_otherwise_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_likeliest_of", lambda *_: 0.5)
    monkeypatch.setattr(blocks, "available_cpus", lambda: 1)
    assert main(["--out", str(tmp_path), "peers", "--rounds", "1", "--only", "plain FastAPI"]) == 1
    peers, ours = [], []
    for row in read_rows("peers", tmp_path):
        (peers if row["server"] == row["beside"] else ours).append(row["note"])
    assert all("where the model says 0.5" in note for note in peers)
    assert set(ours) == {"not finished, because of plain FastAPI, 1 worker"}


def test_what_breaks_in_a_turn_ends_its_block_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are stood in for: the peer with two workers breaks in its second round, the other peer does not."""
    monkeypatch.setattr(blocks, "available_cpus", lambda: 2)
    monkeypatch.setattr(rounds, "_start", lambda *_: None)
    monkeypatch.setattr(rounds, "rss_mb", lambda _: 1.0)
    monkeypatch.setattr(rounds, "_PAUSE_S", 0.0)
    asked: list[str] = []

    def turn(block: blocks.Block, candidate: blocks.Candidate, *_: object) -> blocks.Turn:
        asked.append(candidate.name)
        if asked.count("LitServe, 2 workers") == 2:
            raise OSError("the connection broke")
        of_ours = comparison.FORM in candidate.name
        # The machine is three times as fast in the second round; ours does 1.5 times as much as the peer in both.
        answered = (1 + 2 * (asked.count(candidate.name) > 1)) * (150 if of_ours else 100)
        load = Measurement([0.01] * answered, Counter({"200": answered}), answered, 1.0)
        return blocks.Turn(load, 1.0, 0.1)

    monkeypatch.setattr(rounds, "_turn", turn)
    python = ["--python", str(tmp_path)]
    assert (
        main(["--out", str(tmp_path), "peers", "--rounds", "2", "--clients", "1", "--only", "LitServe", *python]) == 1
    )
    one, form, body, form_of_fronts, body_of_fronts, *gone = read_rows("peers", tmp_path)
    ours = (form, body, form_of_fronts, body_of_fronts)
    assert [row["times_the_peer"] for row in (one, *ours)] == ["1.0", "1.5", "1.0", "1.5", "1.0"]
    assert [row["note"] for row in gone] == [
        "the connection broke", *["not finished, because of LitServe, 2 workers"] * 4
    ]  # fmt: skip
    in_turns = ["LitServe, 1 worker", *(row["server"] for row in ours)]
    assert in_turns[1:] == [f"{way}{by}" for by in ("", ", 2 fronts") for way in (comparison.FORM, comparison.BODY)]
    assert asked[:10] == [*in_turns, *in_turns[1:], in_turns[0]], "the order moves on by one"


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


def test_the_others_are_paused_with_their_children_and_go_on_afterwards() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        try:
            wait_until(lambda: len(tree(parent.pid)) == 2, 30)
            both = tree(parent.pid)
            with rounds._paused([parent.pid]):
                wait_until(lambda: all(process.status() == psutil.STATUS_STOPPED for process in both), 30)
            wait_until(lambda: not any(process.status() == psutil.STATUS_STOPPED for process in both), 30)
        finally:
            for process in tree(parent.pid):
                process.kill()


def table(beside: str, **changes: float) -> Iterator[Row]:
    """A run in which every number is met just so beside every peer; ``changes`` are of our form beside one of them."""
    for peer in (f"{name}, {workers}" for name in comparison.PEERS for workers in ("1 worker", "2 workers")):
        yield row(peer, peer, 1, p50_ms=3.0)
        yield row(peer, peer, 32)
        for name, times in ((comparison.FORM, 1.4), (comparison.BODY, 1.8)):
            yield row(peer, name, 1, p50_ms=3.25)
            changed = changes if (peer, name) == (beside, comparison.FORM) else {}
            yield row(peer, name, 32, **{"times_the_peer": times, "p99_ms": 70.0, **changed})


def row(beside: str, server: str, clients: int, **values: float) -> Row:
    usual = {"p50_ms": 10.0, "p99_ms": 100.0, "times_the_peer": 1.0, "cpu_ms_per_request": 4.0, "failures": 0}
    return {"beside": beside, "server": server, "clients": clients, **usual, **values, "note": ""}


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"times_the_peer": 1.39}, ["requests/s"]),
        ({"p99_ms": 71.0}, ["p99"]),
        ({"cpu_ms_per_request": 4.1}, ["CPU"]),
        ({"failures": 1}, ["requests that failed"]),
    ],
)
def test_the_worst_of_the_comparisons_is_judged(changes: dict[str, float], missed: list[str]) -> None:
    verdicts = list(comparison.verdicts(list(table("BentoML, 2 workers", **changes))))
    assert len(verdicts) == 4 + 5 + 1
    found = [verdict for verdict in verdicts if not verdict.met]
    assert len(found) == len(missed)
    for verdict, start in zip(found, missed, strict=True):
        assert verdict.what.startswith(start)
        assert "failures" in changes or "(BentoML, 2 workers)" in verdict.found


@pytest.mark.parametrize(("times", "found"), [(1.5, "1.50 x (BentoML, 2 workers; ours, 2 fronts)"), (1.2, "1.30 x")])
def test_the_better_of_our_settings_is_judged(times: float, found: str) -> None:
    """By all of its numbers; other rows of ours are not among them."""
    peer = "BentoML, 2 workers"
    rows = list(table(peer, times_the_peer=1.3))
    rows.append(row(peer, f"{comparison.FORM}, 2 fronts", 32, times_the_peer=times, p99_ms=60.0))
    rows.append(row(peer, f"{comparison.FORM}, our decoder", 32, times_the_peer=9.0))
    rows = [{**row, "times_the_peer": 2.0} if row["beside"] != peer and row["clients"] == 32 else row for row in rows]
    [verdict] = [verdict for verdict in comparison.verdicts(rows) if "the same form" in verdict.what]
    assert verdict.found.startswith(found)
    assert verdict.met is (times > 1.4)


def test_one_client_is_compared_with_plain_fastapi_of_one_worker() -> None:
    for beside, met in (("plain FastAPI, 1 worker", False), ("LitServe, 1 worker", True)):
        rows = [
            {**row, "p50_ms": 3.4}
            if (row["beside"], row["server"], row["clients"]) == (beside, comparison.FORM, 1)
            else row
            for row in table("")
        ]
        [verdict] = [verdict for verdict in comparison.verdicts(rows) if verdict.what.startswith("p50")]
        assert verdict.met is met


def test_what_was_not_measured_is_not_met() -> None:
    silent = [{**row, "note": "it did not start"} if row["server"] == comparison.FORM else row for row in table("")]
    verdicts = list(comparison.verdicts(silent))
    assert [verdict.found for verdict in verdicts if not verdict.met] == ["not measured"] * 4
    broken = [{**row, "note": "broken"} if row["server"] == "Ray Serve, 2 workers" else row for row in table("")]
    assert [verdict.what for verdict in comparison.verdicts(broken) if not verdict.met] == ["Ray Serve took part"]


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
