"""Trainings and conversions, each in a process of its own, some side by side, and none of them twice.

<scratch>/runs/<name>/            the checkpoint
<scratch>/finished/<name>.json    its command, commit and CPU time, written when it is done: it is then not run again
<scratch>/logs/<name>.txt         what it said
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from skipvit import provenance
from skipvit.publishing import write_atomically

_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Training:
    """A program that writes a checkpoint to its ``--out`` and ends with a line of JSON that has ``cpu_seconds``.

    Args:
        name: of its files.
        module: such as ``train.run``.
        arguments: all but --out.
    """

    name: str
    module: str
    arguments: tuple[str, ...]


def folder_of(scratch: Path, name: str) -> Path:
    """Where the checkpoint of a training is."""
    return scratch / "runs" / name


def carry_out(
    trainings: Sequence[Training], scratch: Path, jobs: int, label: str, any_commit: bool = False
) -> dict[str, float]:
    """CPU seconds of each training, by name; those that an earlier call finished are not run again.

    Args:
        jobs: processes at a time, of one thread each. Results do not depend on it.
        any_commit: takes what was finished at other commits too; a checkpoint says at which.

    Raises:
        RuntimeError: one failed; the others are stopped, and what is finished is kept.
    """
    waiting = [t for t in trainings if _finished(t, scratch, any_commit) is None]
    running: dict[Training, subprocess.Popen[bytes]] = {}
    with tqdm(total=len(trainings), initial=len(trainings) - len(waiting), desc=label, unit="run") as bar:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running[waiting[0]] = _start(waiting[0], scratch)
                    waiting.pop(0)
                bar.set_postfix_str(", ".join(t.name for t in running))
                time.sleep(0.5)
                for training, process in list(running.items()):
                    if process.poll() is not None:
                        del running[training]
                        _finish(training, process.returncode, scratch)
                        bar.update()
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    found = {t.name: _finished(t, scratch, any_commit) for t in trainings}
    return {name: seconds for name, seconds in found.items() if seconds is not None}


def said_of(name: str, scratch: Path) -> dict[str, float]:
    """The line of JSON that a finished training ended with: its figures, seconds and CPU seconds."""
    return json.loads(_log_of(name, scratch).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1])


def _start(training: Training, scratch: Path) -> subprocess.Popen[bytes]:
    out = folder_of(scratch, training.name)
    shutil.rmtree(out, ignore_errors=True)  # of a run that was interrupted; resumed, its CPU time would be unknown
    out.parent.mkdir(parents=True, exist_ok=True)
    log = _log_of(training.name, scratch)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", training.module, *training.arguments, "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)


def _finish(training: Training, status: int, scratch: Path) -> None:
    said = _log_of(training.name, scratch).read_text(encoding="utf-8", errors="replace")
    if status != 0:
        raise RuntimeError(f"{training.name} ended with status {status}: {said[-2000:].strip()}")
    try:
        seconds = float(json.loads(said.strip().splitlines()[-1])["cpu_seconds"])
    except (IndexError, KeyError, TypeError, ValueError):
        raise RuntimeError(
            f"{training.name} did not end with its figures; see {_log_of(training.name, scratch)}"
        ) from None
    path = _finished_file(training, scratch)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({**_circumstances(training), "cpu_seconds": seconds}) + "\n")


def _finished(training: Training, scratch: Path, any_commit: bool) -> float | None:
    """CPU seconds of a training that is done, in the same way and, unless ``any_commit``, with the same code."""
    try:
        found = json.loads(_finished_file(training, scratch).read_text(encoding="utf-8"))
        seconds = float(found.pop("cpu_seconds"))
    except (FileNotFoundError, ValueError, KeyError, AttributeError):
        return None
    wanted = _circumstances(training)
    if any_commit:
        wanted["commit"] = found.get("commit")
    return seconds if found == wanted else None


def _circumstances(training: Training) -> dict[str, object]:
    return {"module": training.module, "arguments": list(training.arguments), "commit": provenance.commit()}


def _finished_file(training: Training, scratch: Path) -> Path:
    return scratch / "finished" / f"{training.name}.json"


def _log_of(name: str, scratch: Path) -> Path:
    return scratch / "logs" / f"{name}.txt"
