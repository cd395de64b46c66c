"""Builds an engine in a process of its own, with a progress bar; whatever TensorRT does, the user gets a sentence."""

import contextlib
import dataclasses
import json
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
_LAST_WORDS = 3


class BuildError(Exception):
    """TensorRT will not, or cannot, make an engine of the graph; the message says why and what to do."""


def build(job: BuildJob, name: str) -> Built:
    """Builds, and writes the plan to ``job.plan``. Interrupted, it ends the process that builds.

    Args:
        name: what the progress bar is headed.

    Raises:
        BuildError: see the class.
    """
    with tempfile.TemporaryFile("w+") as words, _worker(job, words) as process:
        progress = Progress(name)
        with progress:
            outcome = _outcome(process, progress)
        if "built" in outcome:
            return Built(**outcome["built"])
        if "refused" in outcome:
            raise BuildError(_sentence(job, outcome["refused"], outcome["text"], outcome["op"]))
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


def _sentence(job: BuildJob, kind: str, text: str, op: str) -> str:
    if kind == "flag":
        return text
    if kind == "parse" and "Plugin not found" in text:
        return (
            f"{job.onnx}: TensorRT has no op {op}, no plugin of that name is registered"
            f"{'' if job.plugins else ' with --no-plugins'}, and the file has no body of it; ours are in namespace "
            f"{NAMESPACE!r}, version {VERSION}. Export the model again with skipvit-to-onnx"
        )
    if kind == "parse":
        return f"{job.onnx} cannot be imported by {TITLES[job.flavor]}{f' at a node {op}' if op else ''}: {text}"
    asked = [f"--{name.replace('_', '-')}" for name in ("version_compatible", "refit", "strip") if getattr(job, name)]
    advice = f"leave {' and '.join(asked)} out" if asked else "try --no-plugins, or another --precision"
    return f"{TITLES[job.flavor]} cannot build an engine of {job.onnx}: {text}; {advice}"


def _obituary(job: BuildJob, status: int, doing: str, words: str) -> str:
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return (
        f"{TITLES[job.flavor]} ended with {how} while {doing.lower()} of {job.onnx}"
        f"{f', saying: {words}' if words else ''}; try --no-plugins, or --verbose to see more"
    )


def _tail(words: IO[str]) -> str:
    words.seek(0)
    return " ".join("".join(words.readlines()[-_LAST_WORDS:]).split())[-600:]
