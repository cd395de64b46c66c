"""Kills a training run in many ways and resumes it. A program of test_resume.py, since forks need a clean process.

    python killed_runs.py RECIPE OUT

torch is loaded once; each run is a forked child. What ends a child is decided in it: SIGKILL of itself at an exact
place, or a signal from outside at a random time.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from train import program, resume  # noqa: F401  (loaded before the forks)
from train.digits import digits
from train.run import main


def child(recipe: str, out: Path, *arguments: str, sabotage: Callable[[], None] = lambda: None) -> int:
    """Starts a run in a child process and returns its id."""
    if (pid := os.fork()) == 0:
        sabotage()
        sys.stdout = (out.parent / f"{out.name}.log").open("a", buffering=1)
        os._exit(main([recipe, "--out", str(out), *arguments]))
    return pid


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_before_renaming(saves: int) -> Callable[[], None]:
    """Killed when state number ``saves`` is written, but not yet in place."""

    def sabotage() -> None:
        honest, count = resume.save, [0]

        def save(*args: object, **kwargs: object) -> None:
            honest(*args, **kwargs)  # type: ignore[arg-type]
            count[0] += 1
            if count[0] == saves:
                die()

        resume.save = save  # type: ignore[assignment]

    return sabotage


def die_while_writing() -> None:
    """Killed with half of the first state's bytes on disk."""
    honest = resume.save

    def save(*args: object, **kwargs: object) -> None:
        honest(*args, **kwargs)  # type: ignore[arg-type]
        for path in Path(kwargs["storage_writer"].path).iterdir():  # type: ignore[attr-defined]
            os.truncate(path, path.stat().st_size // 2)
        die()

    resume.save = save  # type: ignore[assignment]


def die_before_tidying() -> None:
    """Killed with the new state in place and the old one not yet removed."""
    honest, count = resume._sync, [0]

    def sync(folder: Path) -> None:
        honest(folder)
        count[0] += 1
        if count[0] == 2:
            die()

    resume._sync = sync


def kill_once_it_saved(pid: int, out: Path, rng: random.Random) -> None:
    """SIGKILL from outside, at a random time after the first state."""
    while resume.latest_step(out) is None:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.4))
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    digits()  # so that the children need not load scikit-learn
    recipe, base, rng = sys.argv[1], Path(sys.argv[2]), random.Random(int(sys.argv[3]))
    assert wait(child(recipe, base / "whole")) == 0

    killed = base / "killed"
    assert wait(child(recipe, killed, sabotage=die_while_writing)) == -signal.SIGKILL
    assert resume.latest_step(killed) is None, "half a state must not count"
    # --resume without a state starts from the beginning, so a supervisor can always pass it
    for sabotage in (die_before_renaming(1), die_before_renaming(3), die_before_tidying):
        assert wait(child(recipe, killed, "--resume", sabotage=sabotage)) == -signal.SIGKILL
    for _ in range(4):
        pid = child(recipe, killed, "--resume")
        kill_once_it_saved(pid, killed, rng)
        print("ended with", wait(pid), "at step", resume.latest_step(killed))
    assert wait(child(recipe, killed, "--resume")) == 0

    stopped = base / "stopped"
    pid = child(recipe, stopped, "--set", "run.save_every=1000")
    while not (stopped / "metrics.jsonl").exists() or not (stopped / "metrics.jsonl").read_text():
        time.sleep(0.002)
    os.kill(pid, signal.SIGTERM)
    assert wait(pid) == 0, "SIGTERM is a wish to stop, not an error"
    assert not (stopped / "checkpoint.json").exists()
    print("stopped at step", resume.latest_step(stopped))
    pid, step = child(recipe, stopped, "--resume", "--set", "run.save_every=1000"), resume.latest_step(stopped)
    while f'"step": {step + 1},' not in (stopped / "metrics.jsonl").read_text():
        time.sleep(0.002)
    os.kill(pid, signal.SIGINT)
    assert wait(pid) == 130, "make and shells end a sequence of commands on this status"
    assert resume.latest_step(stopped) > step
    assert wait(child(recipe, stopped, "--resume")) == 0
