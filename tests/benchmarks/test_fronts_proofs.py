"""The benchmarks of fronts against real servers, and how they judge; each server is asked for a moment only."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import drain, engine_kill, fronts, rows, servers
from benchmarks.cli import main
from benchmarks.crowd import Asked, Crowd, counted
from tests.serve.servers import write_model

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is there at once, in place of the one that is exported."""

    def write(models: Path) -> Path:
        write_model(models, "mini", side=16)
        return models

    monkeypatch.setattr(servers, "write_mini_model", write)


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="fronts need Linux")


@linux_only
def test_a_drain_of_each_kind(tiny_model: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--rounds", "1", "--seconds", "1", "--clients", "4", "--fronts", "0", "1"]
    assert main(["--out", str(tmp_path), "drain", *short]) == 0
    one, two = rows.read_rows("drain", tmp_path)
    assert (one["fronts"], two["fronts"]) == ("0", "1")
    for row in (one, two):
        assert (row["lost"], row["hung"], row["other"], row["exit_code"]) == ("0", "0", "0", "0")
        assert int(row["accepted"]) > 0
    assert "met     requests lost, 1 fronts: needed 0, found 0" in capsys.readouterr().out


@pytest.mark.slow  # tests/serve/test_fronts.py kills one among the fast tests
@linux_only
def test_a_killed_engine(tiny_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_kill, "_READY_WITHIN_S", 1000.0)  # this machine may be busy
    short = ["--kills", "1", "--seconds", "1.5", "--clients", "4", "--fronts", "1"]
    assert main(["--out", str(tmp_path), "engine-kill", *short]) == 0
    [row] = rows.read_rows("engine-kill", tmp_path)
    assert float(row["ready_again_s"]) > 0
    assert (row["hung"], row["cut"]) == ("0", "0")


@pytest.mark.slow
@linux_only
def test_servers_with_and_without_fronts(tiny_model: None, tmp_path: Path) -> None:
    short = ["--rounds", "1", "--seconds", "0.3", "--clients", "2", "--fronts", "0", "1"]
    assert main(["--out", str(tmp_path), "fronts", *short]) == 0
    one, two = rows.read_rows("fronts", tmp_path)
    assert (one["fronts"], two["fronts"]) == ("0", "1")
    assert float(two["requests_per_s"]) > 0


def test_losses_are_judged() -> None:
    row = {"fronts": 2, "exit_code": 0, "hung": 0, "lost": 1}
    assert [verdict.met for verdict in drain.verdicts([row])] == [False, True]
    kill = {"ready_again_s": 5.5, "hung": 1, "cut": 0, "refused": 1, "other": 0, "answered": 0}
    assert [verdict.met for verdict in engine_kill.verdicts([kill])] == [False] * 4
    assert [verdict.met for verdict in fronts.verdicts([{"failures": 3}])] == [False]


def test_outcomes_are_counted() -> None:
    asked = [Asked(str(k), 0.0, 1.0, outcome) for k, outcome in enumerate(["200", "200", "503", "cut", "500", "hung"])]
    assert counted(asked) == {
        "answered": 2, "told_503": 1, "told_429": 0, "refused": 0, "cut": 1, "hung": 1, "other": 1,
    }  # fmt: skip


@contextmanager
def answering(answers: list[bytes]) -> Iterator[int]:
    """A server that gives these bytes to one request after the other, and closes the connection after each."""
    started = threading.Event()
    ended: asyncio.Event
    loop = asyncio.new_event_loop()
    port = 0

    async def serve() -> None:
        nonlocal port, ended
        ended = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answers.pop(0) if answers else b"")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        started.set()
        async with server:
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(30)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def test_a_client_tells_a_whole_answer_from_one_that_was_cut() -> None:
    head = b"HTTP/1.1 %s\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    whole, told, short = head % b"200 OK" + b"ok", head % b"503 no" + b"no", head % b"200 OK" + b"o"
    with answering([whole, told, short]) as port, Crowd(port, REQUEST, 1) as crowd:
        for _ in range(3000):
            if len(crowd.asked) >= 3:
                break
            threading.Event().wait(0.01)
    assert [one.outcome for one in crowd.asked[:3]] == ["200", "503", "cut"]
    assert len({one.request_id for one in crowd.asked}) == len(crowd.asked)
    with Crowd(servers.free_ports(1)[0], REQUEST, 1) as lonely:
        for _ in range(3000):
            if lonely.asked:
                break
            threading.Event().wait(0.01)
    assert lonely.asked[0].outcome == "refused"
