"""Ours against plain FastAPI over HTTP: the same model file, decoder and pictures, both running, measured in turns."""

import io
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

import httpx
import numpy as np
import psutil
from PIL import Image
from tqdm import tqdm

from export.to_onnx import main as to_onnx
from skipvit.client import event_loop
from skipvit.client.http_exchange import HttpExchange, request_bytes
from skipvit.client.load import Measurement, Plan, closed_loop, percentiles

PACKAGES = ("fastapi", "uvicorn", "onnxruntime", "pillow", "numpy")
# One block of width 64 over 49 patches: less than a millisecond, so that the server and not the model is measured.
_MODEL_ARGUMENTS = {"img_size": 224, "patch_size": 32, "depth": 1, "num_classes": 1000}
_JPEG_BYTES = 41_000
_PAUSE_S = 0.3


def measure(seconds: float, rounds: int, clients: list[int]) -> list[dict[str, object]]:
    """Rows of plain FastAPI, ours with the same multipart form, and ours with the picture as the body."""
    with TemporaryDirectory() as scratch:
        models = write_mini_model(Path(scratch) / "models")
        picture = photo()
        as_form, as_body = form_and_body(picture)
        ports = free_ports(2)
        plain = [sys.executable, "-m", "benchmarks.plain_server", str(models), str(ports[0])]
        ours = [sys.executable, "-m", "serve", str(models), "--port", str(ports[1])]
        with server(plain, ports[0]) as plain_pid, server(ours, ports[1]) as our_pid:
            candidates = {
                "plain FastAPI, form": (ports[0], plain_pid, as_form),
                "skipvit, form": (ports[1], our_pid, as_form),
                "skipvit, raw body": (ports[1], our_pid, as_body),
            }
            return _rows(candidates, seconds, rounds, clients)


def write_mini_model(models: Path) -> Path:
    """Exports the benchmark's model into the repository ``models``, and returns that."""
    arguments = [f"--model-arg={key}={value}" for key, value in _MODEL_ARGUMENTS.items()]
    if to_onnx(["vit_micro_patch2_8", "--name", "mini", "--out", str(models), *arguments]) != 0:
        raise RuntimeError("the benchmark's model could not be exported; see the message above")
    return models


def _rows(
    candidates: dict[str, tuple[int, int, bytes]], seconds: float, rounds: int, clients: list[int]
) -> list[dict[str, object]]:
    for port, _, request in candidates.values():
        run_load(port, request, 4, 1.0)  # warm-up
    slices: dict[tuple[str, int], list[tuple[Measurement, float]]] = {}
    turns = [(round_, count) for round_ in range(rounds) for count in clients]
    for _, count in tqdm(turns, desc="server", unit="turn", leave=False):
        for name, (port, pid, request) in candidates.items():
            before = cpu_seconds(pid)
            load = run_load(port, request, count, seconds)
            slices.setdefault((name, count), []).append((load, cpu_seconds(pid) - before))
            time.sleep(_PAUSE_S)
    pids = {name: pid for name, (_, pid, _) in candidates.items()}
    return [row_of(name, count, found, rss_mb(pids[name])) for (name, count), found in slices.items()]


def row_of(name: str, count: int, found: list[tuple[Measurement, float]], rss: float) -> dict[str, object]:
    """Medians over the turns of a server, each with the CPU seconds that its process tree took."""

    def median(values: Iterator[float]) -> float:
        return round(statistics.median(values), 2)

    return {
        "server": name,
        "clients": count,
        "p50_ms": median(percentiles(load.latencies_s, [50])[0] * 1e3 for load, _ in found),
        "p99_ms": median(percentiles(load.latencies_s, [99])[0] * 1e3 for load, _ in found),
        "requests_per_s": median(load.requests_per_s for load, _ in found),
        "cpu_ms_per_request": median(cpu * 1e3 / max(1, len(load.latencies_s)) for load, cpu in found),
        "rss_mb": round(rss),
        "failures": sum(load.outcomes.total() - len(load.latencies_s) for load, _ in found),
        "rounds": len(found),
    }


def form_and_body(picture: bytes) -> tuple[bytes, bytes]:
    """The requests that classify a JPEG on 127.0.0.1: in a form with one file, and as the whole body."""
    url = "http://127.0.0.1/v1/classify"
    form = httpx.Request("POST", url, files={"file": ("photo.jpg", picture, "image/jpeg")})
    body = httpx.Request("POST", url, content=picture, headers={"Content-Type": "image/jpeg"})
    return request_bytes(form), request_bytes(body)


def run_load(port: int, request: bytes, clients: int, seconds: float) -> Measurement:
    """Sends ``request`` to 127.0.0.1:port over so many connections, each when its last was answered."""
    url = httpx.URL(f"http://127.0.0.1:{port}")
    return event_loop.run(closed_loop(lambda: HttpExchange(url, None), [request], clients, Plan(seconds)))


def photo() -> bytes:
    """A 500 x 375 JPEG of about 41 kB: smooth colours with texture over them, the same every time."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (500, 375), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 22, (375, 500, 1))
    image = Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))
    for quality in range(95, 20, -1):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= _JPEG_BYTES:
            break
    return buffer.getvalue()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nothing listens now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextmanager
def server(command: list[str], port: int, ready_within: float = 60.0) -> Iterator[int]:
    """Runs a server until the block ends; yields its process id once /readyz answers 200."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    # Logging is part of serving, so it stays on; a file takes it in place of the terminal.
    with TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait_ready(process, port, ready_within, log)
            yield process.pid
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a server and what it started: workers that outlive it would disturb what is measured next."""
    started: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for left in started:
        with suppress(psutil.NoSuchProcess):
            left.kill()
    psutil.wait_procs(started, timeout=10)


def _wait_ready(process: subprocess.Popen[bytes], port: int, seconds: float, log: IO[bytes]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log.seek(0)
            said = log.read()[-2000:].decode(errors="replace")
            raise RuntimeError(f"{process.args!r} ended with status {process.returncode} before it was ready: {said}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} was not ready within {seconds:.0f} s")


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that it started, parents before children."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children."""
    return sum(p.cpu_times().user + p.cpu_times().system for p in tree(pid))


def rss_mb(pid: int) -> float:
    """Resident memory of a process and its children, in megabytes."""
    return sum(p.memory_info().rss for p in tree(pid)) / 1e6
