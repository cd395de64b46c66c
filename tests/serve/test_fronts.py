"""``skipvit-serve --fronts``: one server of several processes, each of which may die."""

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.http as triton
import uvloop
from PIL import Image

from serve.fronts.control import NUMBER, Control, Kind, Message
from serve.fronts.engine_process import EngineProcess, Heritage
from serve.fronts.front_process import FrontServer
from serve.settings import Settings
from tests.serve.servers import encoded, png, until, wait_until
from tests.serve.test_cli import program

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fronts need Linux")

PNG = {"Content-Type": "image/png"}
WITHIN_S = 60.0


def children(process: subprocess.Popen[str], role: str) -> list[psutil.Process]:
    """The processes of a server that are of one kind."""
    found = []
    for child in psutil.Process(process.pid).children():
        try:
            if child.status() != psutil.STATUS_ZOMBIE and f"serve.fronts.{role}_process" in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:  # it ended while we looked
            continue
    return found


def classify(url: str, value: int = 255) -> httpx.Response:
    return httpx.post(f"{url}/v1/classify", content=png(value), headers=PNG, timeout=WITHIN_S)


def sample(url: str, name: str, label: str = "") -> float:
    """The sum of a metric over its labels, or over those with one of them."""
    lines = httpx.get(f"{url}/metrics", timeout=WITHIN_S).text.splitlines()
    found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{")) and label in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def in_flight(url: str) -> int:
    return int(httpx.get(f"{url}/v1/status", timeout=WITHIN_S).json()["in_flight"])


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=WITHIN_S).status_code == 200
    except httpx.TransportError:  # of a front that is gone
        return False


@contextmanager
def held(
    process: subprocess.Popen[str], url: str, requests: int
) -> Iterator[tuple[psutil.Process, list[Future[httpx.Response]]]]:
    """Requests that wait for an engine that stands still."""
    [engine] = children(process, "engine")
    engine.suspend()
    with ThreadPoolExecutor(requests) as threads:
        asked = [threads.submit(classify, url, 255 * number // 9) for number in range(requests)]
        wait_until(lambda: sample(url, "skipvit_queue_images") == requests, WITHIN_S)
        wait_until(lambda: in_flight(url) == requests + 1, WITHIN_S)  # whichever front is asked; it counts itself
        yield engine, asked


def test_a_server_of_three_processes(models_dir: Path) -> None:
    flags = ("--fronts", "2", "--decode-threads", "2", "--tile-threads", "1", "--log-format", "json")
    with program(models_dir, *flags) as (process, url):
        assert len(children(process, "front")) == 2
        answers_as_one_process_does(url)
        metrics_are_those_of_all(url)
        a_dead_engine_is_replaced(process, url)
        a_dead_front_is_replaced(process, url)
        a_drain_loses_nothing(process, url)


def answers_as_one_process_does(url: str) -> None:
    labels = [classify(url, 255 * k // 9).json()["results"][0]["predictions"][0]["label"] for k in range(10)]
    assert labels == [str(k) for k in range(10)]
    bad = httpx.post(f"{url}/v1/classify", content=b"no picture", headers=PNG, timeout=WITHIN_S)
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "not_an_image")
    noisy = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    answer = httpx.post(f"{url}/v1/denoise", content=encoded(Image.fromarray(noisy)), headers=PNG, timeout=WITHIN_S)
    assert (np.asarray(Image.open(io.BytesIO(answer.content))) == noisy).all()  # the denoiser is an identity
    assert int(answer.headers["x-skipvit-tiles"]) > 1
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    pixels = triton.InferInput("image", [2, 8, 8, 3], "UINT8")
    pixels.set_data_from_numpy(np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 255)]))
    assert client.infer("shades", [pixels]).as_numpy("probabilities").argmax(axis=1).tolist() == [0, 9]
    client.close()


def metrics_are_those_of_all(url: str) -> None:
    for _ in range(8):  # each over a connection of its own, and so to whichever front gets it
        assert classify(url).status_code == 200
    wait_until(lambda: sample(url, "skipvit_requests_total", 'route="/v1/classify"') == 19, WITHIN_S)
    wait_until(lambda: sample(url, "skipvit_images_total", 'model="shades"') == 20, WITHIN_S)
    wait_until(lambda: sample(url, "skipvit_model_ready") == 2, WITHIN_S)


def a_dead_engine_is_replaced(process: subprocess.Popen[str], url: str) -> None:
    """What was in flight is refused, what comes next is answered, and the process is another."""
    with held(process, url, 5) as (engine, asked):
        engine.kill()
        for answer in asked:
            response = answer.result(WITHIN_S)
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"]["code"] == "not_ready"
    wait_until(lambda: children(process, "engine") not in ([], [engine]) and ready(url), WITHIN_S)
    wait_until(lambda: all(classify(url).status_code == 200 for _ in range(4)), WITHIN_S)


def a_dead_front_is_replaced(process: subprocess.Popen[str], url: str) -> None:
    before = sample(url, "skipvit_images_total")
    first, second = children(process, "front")
    first.kill()
    wait_until(lambda: len(children(process, "front")) == 2 and first not in children(process, "front"), WITHIN_S)
    assert second in children(process, "front")
    wait_until(lambda: all(ready(url) for _ in range(4)), WITHIN_S)
    wait_until(lambda: classify(url).status_code == 200, WITHIN_S)
    wait_until(lambda: sample(url, "skipvit_images_total") > before, WITHIN_S)


def a_drain_loses_nothing(process: subprocess.Popen[str], url: str) -> None:
    with held(process, url, 5) as (engine, asked):
        process.send_signal(signal.SIGTERM)
        engine.send_signal(signal.SIGTERM)  # as an init system may send to all
        engine.resume()
        for number, answer in enumerate(asked):
            response = answer.result(WITHIN_S)
            assert response.status_code == 200
            assert response.json()["results"][0]["predictions"][0]["label"] == str(number)
    assert process.wait(WITHIN_S) == 0


def test_no_process_outlives_the_supervisor(models_dir: Path) -> None:
    with program(models_dir, "--fronts", "1") as (process, _):
        all_of_them = psutil.Process(process.pid).children()
        assert len(all_of_them) == 2
        process.kill()
        _, alive = psutil.wait_procs(all_of_them, WITHIN_S)
        assert not alive


def test_what_cannot_be_served_ends_the_server_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve", str(tmp_path), "--port", "0", "--fronts", "1"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 1
    assert "skipvit-serve: " in done.stderr
    assert "holds no model" in done.stderr
    assert "Traceback" not in done.stderr


def bare_front(control: Control) -> FrontServer:
    """One that has no models and no clients, and hears its supervisor."""
    server = FrontServer.__new__(FrontServer)
    server._control, server._repository, server._leave_at = control, cast(Any, Mock()), None
    server.should_exit = server.force_exit = False
    return server


def test_a_drain_goes_on_without_the_supervisor() -> None:
    ours, theirs = socket.socketpair()
    server = bare_front(Control(ours))
    server.leave(60.0)
    server._go_alone()
    ours.close()
    theirs.close()
    assert server.leaving
    assert not server.force_exit


@pytest.mark.parametrize("unread", [b"", b"what nobody reads"])
def test_a_front_hears_that_its_supervisor_is_gone_whatever_that_left_unread(unread: bytes) -> None:
    """On uvloop, as fronts run: its own readers would not say so."""
    ours, theirs = socket.socketpair()
    server = bare_front(Control(ours))

    async def hear() -> None:
        server.listen_to_control()
        ours.send(unread)
        Control(theirs).send(Kind.SAMPLES, bytes(4))
        theirs.close()
        await until(lambda: server.leaving)

    server._others = cast(Any, Mock())
    uvloop.run(hear())
    ours.close()
    assert not server.force_exit


def test_engines_do_not_wait_for_fronts_that_they_can_never_serve() -> None:
    """A supervisor that is killed while a model fails to warm up leaves nothing behind."""
    ours, theirs = socket.socketpair()
    theirs.close()
    broken = cast(Any, Mock(served=[], failure=RuntimeError("it is broken"), failures={}, state="failed"))

    async def main() -> int:
        process = EngineProcess(Settings(), broken, Control(ours), Heritage())
        process._desks._fronts[cast(Any, Mock(adopted=False))] = 0
        async with asyncio.timeout(WITHIN_S):
            return await process.run([])

    assert asyncio.run(main()) == 1
    ours.close()


def test_the_supervisor_is_told_of_fronts_that_hang() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = EngineProcess(Settings(), cast(Any, Mock(served=[], failures={})), Control(ours), Heritage())
        process._desks = cast(Any, Mock(change=Mock(return_value=False), hung=Mock(return_value=[3])))
        process._look()
        assert Control(theirs).receive() == [Message(Kind.HUNG, NUMBER.pack(3))]
