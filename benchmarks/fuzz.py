"""Sends broken and hostile inputs through every door of a server in this process, and looks for 5xx, hangs and leaks.

Input k of a door follows from the seed, the door's name and k alone, so that one can be sent again:

    skipvit-bench fuzz --seed 0 --door "OIP, JSON" --case 1234

An input fails if it is answered with a status from 500 (504 within a time that it set itself is an answer), if an
exception comes out, if a refusal is not in the words of its route, or if it takes over a second of wall-clock and
processor time. It is written down as it was. If the process itself dies, CURRENT in the folder of failures names the
input.
"""

import argparse
import asyncio
import json
import logging
import math
import os
import signal
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.proofs import Row, Verdict
from skipvit.arguments import whole

PACKAGES = ("fastapi", "numpy", "onnxruntime", "pillow", "av", "orjson", "python-multipart", "pydantic")

_MOST_S = 1.0
_HANG_S = 30
_ALL = "all doors"
_SAMPLES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--inputs", type=whole(20), default=100_000, help="in total (default: 100000)")
    add("--seed", type=int, default=0)
    add("--door", help="only this one, as it is called in the table")
    add("--case", type=whole(0), help="only this input of the door, with what came of it")
    add("--failures", type=Path, default=Path("runs/fuzz"), metavar="FOLDER",
        help="where inputs that fail are written (default: runs/fuzz)")  # fmt: skip


@dataclass(slots=True)
class _Tally:
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    slowest_s: float = 0.0


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Returns a row for each door, and one for all."""
    from tempfile import TemporaryDirectory

    from benchmarks.fuzz_doors import doors
    from benchmarks.fuzz_files import Files
    from benchmarks.fuzz_target import Target

    arguments.failures.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.CRITICAL)  # of refusals there is a line each
    try:
        with TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # so have libraries
            files = Files(Path(scratch))
            found = [door for door in doors(files.contents) if arguments.door in (None, door.name)]
            if not found:
                names = ", ".join(repr(door.name) for door in doors(files.contents))
                raise RuntimeError(f"there is no door {arguments.door!r}; there are: {names}")
            return asyncio.run(_fuzz(found, files, Target(Path(scratch) / "models"), arguments))
    finally:
        logging.disable(logging.NOTSET)


async def _fuzz(
    found: Sequence[Any], files: Any, target: Any, arguments: argparse.Namespace
) -> list[dict[str, object]]:
    plan = _plan(found, arguments)
    memory: list[float] = []
    tallies: dict[str, _Tally] = {door.name: _Tally() for door in found}
    started = time.perf_counter()
    async with target:
        current = os.open(arguments.failures / "CURRENT", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            for done, (door, case) in enumerate(_shown(plan)):
                os.pwrite(current, f"{door.name} {case}".ljust(80).encode() + b"\n", 0)
                await _one(door, case, files, target, arguments, tallies[door.name])
                if done % max(1, len(plan) // _SAMPLES) == 0:
                    memory.append(_rss_mb())
        finally:
            os.close(current)
    (arguments.failures / "CURRENT").unlink()
    return _rows(tallies, memory, time.perf_counter() - started)


def _plan(found: Sequence[Any], arguments: argparse.Namespace) -> list[tuple[Any, int]]:
    """Doors and cases, mixed: what one input leaves behind, the next may meet."""
    if arguments.case is not None:
        return [(door, arguments.case) for door in found]
    total = sum(door.weight for door in found)
    plan = [(door, case) for door in found for case in range(math.ceil(arguments.inputs * door.weight / total))]
    Random(arguments.seed).shuffle(plan)
    return plan


def _shown(plan: list[tuple[Any, int]]) -> Iterable[tuple[Any, int]]:
    from tqdm import tqdm

    return tqdm(plan, desc="fuzz", unit="input", leave=False)


async def _one(door: Any, case: int, files: Any, target: Any, arguments: argparse.Namespace, tally: _Tally) -> None:
    made = door.make(Random(f"{arguments.seed}/{door.name}/{case}"))
    wall, processor = time.perf_counter(), time.process_time()
    try:
        with _bounded(_HANG_S):
            outcome = files.read(door.name, made) if isinstance(made, bytes) else await target.ask(made)
    except Exception as error:  # whatever comes out is what is looked for
        outcome = f"FAILED: {type(error).__name__}: {error}"
    # The lesser of both: others may have had the processor, and threads may have used several.
    took = min(time.perf_counter() - wall, time.process_time() - processor)
    tally.slowest_s = max(tally.slowest_s, took)
    if took > _MOST_S and not outcome.startswith("FAILED"):
        outcome = f"FAILED: took {took:.2f} s"
    failed = outcome.startswith("FAILED")
    tally.outcomes["FAILED" if failed else outcome] += 1
    if failed or arguments.case is not None:
        print(f"{door.name} {case}: {outcome}")
    if failed:
        tally.failures += 1
        _write_down(door.name, case, made, outcome, arguments)


@contextmanager
def _bounded(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in what runs longer, event loop or not."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _write_down(door: str, case: int, made: Any, outcome: str, arguments: argparse.Namespace) -> None:
    slug = "".join(letter if letter.isalnum() else "-" for letter in door)
    record = {
        "outcome": outcome,
        "command": f"skipvit-bench fuzz --seed {arguments.seed} --door {door!r} --case {case}",
        "input": made.hex() if isinstance(made, bytes) else _described(made),
    }
    (arguments.failures / f"{slug}-{case}.json").write_text(json.dumps(record, indent=1))


def _described(request: Any) -> dict[str, Any]:
    return {
        "method": request.method,
        "path": request.path,
        "query": request.query.hex(),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers],
        "body": request.body.hex(),
    }


def _rss_mb() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss / 1e6)


def _rows(tallies: dict[str, _Tally], memory: list[float], seconds: float) -> list[dict[str, object]]:
    whole_run = _Tally()
    for tally in tallies.values():
        whole_run.outcomes += tally.outcomes
        whole_run.failures += tally.failures
        whole_run.slowest_s = max(whole_run.slowest_s, tally.slowest_s)
    return [
        {
            "door": name,
            "inputs": tally.outcomes.total(),
            "accepted": tally.outcomes["accepted"],
            "refused": tally.outcomes["refused"],
            "failures": tally.failures,
            "slowest_ms": round(tally.slowest_s * 1e3, 1),
            # The first quarter fills pools and caches; what grows after it would grow for good.
            "rss_second_quarter_mb": _quarter(memory, 1) if name == _ALL else "",
            "rss_last_quarter_mb": _quarter(memory, 3) if name == _ALL else "",
            "seconds": round(seconds) if name == _ALL else "",
        }
        for name, tally in {**tallies, _ALL: whole_run}.items()
    ]


def _quarter(memory: Sequence[float], which: int) -> float:
    size = max(1, len(memory) // 4)
    return round(statistics.median(memory[size * which : size * (which + 1)] or memory), 1)


def verdicts(rows: Sequence[Row]) -> Iterable[Verdict]:
    found = next(row for row in rows if row["door"] == _ALL)
    failures, slowest = int(str(found["failures"])), float(str(found["slowest_ms"]))
    before, after = float(str(found["rss_second_quarter_mb"])), float(str(found["rss_last_quarter_mb"]))
    growth = 100 * (after / before - 1)
    yield Verdict("crashes, 5xx and other failures", "0", f"{failures} of {found['inputs']} inputs", failures == 0)
    yield Verdict("slowest input", f"<= {_MOST_S:g} s", f"{slowest / 1e3:.3f} s", slowest <= _MOST_S * 1e3)
    yield Verdict("memory, last quarter over second", "<= 5 %", f"{growth:+.1f} %", growth <= 5)
