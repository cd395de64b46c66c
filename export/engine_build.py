"""Builds an engine in a process of its own, with a progress bar; whatever TensorRT does, the user gets a sentence."""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from export.engine_job import TITLES, BuildJob, Built
from export.engine_progress import Progress
from trt_plugins.plugin_op import NAMESPACE, VERSION

_WORKER = Path(__file__).with_name("engine_worker.py")
_CANCEL_S = 5.0  # a phase without steps cannot be cancelled, only ended
_LAST_BYTES, _MOST_WORDS = 1 << 16, 600


class BuildError(Exception):
    """TensorRT will not, or cannot, make an engine of the graph; the message says why and what to do."""


def build(job: BuildJob, name: str) -> Built:
    """Builds, and writes the plan to ``job.plan``. Interrupted, it ends the process that builds.

    Args:
        name: what the progress bar is headed.

    Raises:
        BuildError: see the class.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as words, _worker(job, words) as process:
        progress = Progress(name)
        with progress:
            outcome = _outcome(process, progress)
        if "built" in outcome:
            return Built(**outcome["built"])
        if "refused" in outcome:
            raise BuildError(_sentence(job, outcome, _tail(words)))
        raise BuildError(_obituary(job, process.wait(), progress.doing, _tail(words)))


@contextlib.contextmanager
def _worker(job: BuildJob, words: IO[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(_WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if job.verbose else words,
        text=True,
        start_new_session=True,  # a terminal's interrupt is for this process, which then cancels
    ) as process:
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it died at once: its outcome says so
                process.stdin.write(json.dumps(dataclasses.asdict(job)) + "\n")
                process.stdin.flush()
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Closes its input, which cancels the build, and kills it where that is not enough."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(_CANCEL_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _outcome(process: subprocess.Popen[str], progress: Progress) -> dict[str, Any]:
    """Shows progress until the process says what came of it, or {} if it ended without a word."""
    messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError):  # it ended in the middle of a line
            for line in process.stdout:
                messages.put(json.loads(line))
        messages.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            message = messages.get(timeout=0.2)
        except queue.Empty:
            progress.refresh()
            continue
        if message is None:
            return {}
        if "built" in message or "refused" in message:
            return message
        progress.told(message)


def _sentence(job: BuildJob, outcome: dict[str, Any], words: list[str]) -> str:
    kind, text, op = outcome["refused"], outcome["text"], outcome["op"]
    if kind == "asked":
        return text
    if kind == "parse" and "Plugin not found" in text:
        if not job.plugins:
            return f"{job.onnx} has no body of {op}, which --no-plugins needs; leave it out, or export the model again"
        return (
            f"{job.onnx} has a node {op}, which is neither an op of ONNX nor, as it stands there, a plugin of ours "
            f"(namespace {NAMESPACE!r}, version {VERSION}), and no body of it; export the model again"
        )
    more = "".join(f" ({line})" for line in words if "Exception caught" in line)  # what a plugin raised
    if kind == "parse":
        where = f" at a node {op}" if op else ""
        return f"{job.onnx} cannot be imported by {TITLES[job.flavor]}{where}: {text}{more}; export the model again"
    asked = [f"--{name.replace('_', '-')}" for name in ("version_compatible", "refit", "strip") if getattr(job, name)]
    advice = f"leave {' and '.join(asked)} out" if asked else "try --no-plugins, or another --precision"
    if job.plugins and job.flavor == "tensorrt" and job.plugin_code == "cubin":
        advice += ", or --plugin-code ptx"
    return f"{TITLES[job.flavor]} cannot build an engine of {job.onnx}: {text}{more}; {advice}"


def _obituary(job: BuildJob, status: int, doing: str, words: list[str]) -> str:
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    said = f", saying: {' '.join(words)[-_MOST_WORDS:]}" if words else ""
    return (
        f"{TITLES[job.flavor]} broke down over {job.onnx} ({how}, at {doing!r}{said}); no engine was written. "
        "Try --no-plugins, or --verbose to see more"
    )


def _tail(words: IO[str]) -> list[str]:
    words.seek(max(0, words.seek(0, os.SEEK_END) - _LAST_BYTES))
    return [" ".join(line.split()) for line in words.readlines()]
