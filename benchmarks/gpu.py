"""What a GPU is asked: are our kernels right and how near to the copy's speed, and how fast are whole models.

Results are written after every row of kernels and every setting of models, so that a run which its budget or an error
ends keeps what it has. Rows of the same GPU and month that were not measured anew stay in the file.
"""

import gc
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks import gpu_kernels
from benchmarks.families import FAMILIES, GPU_FORMS
from benchmarks.gpu_cases import Case, cases, smoke_cases
from benchmarks.gpu_clock import Clock, CpuClock, GpuClock
from benchmarks.rows import read_rows, write_rows
from trt_plugins.cubins import CompileError
from trt_plugins.on_device import DeviceError
from trt_plugins.operators import ALL

if TYPE_CHECKING:
    from benchmarks.gpu_models import Setting

Rows = list[dict[str, object]]


@dataclass(frozen=True)
class Options:
    """What to measure and where to write it.

    Attributes:
        out: folder of the CSV.
        smoke: everything once on the CPU at tiny sizes, to test the program; its files are named smoke_*.
        budget_s: nothing begins that, going by what came before, would not be done within so many seconds.
        mode: of torch.compile, for models.
        jobs: processes that compile models ahead, within half of the budget; 0 for none.
        missing: leave out what this month's file of this GPU has already.
        commit: of the source, where it lies outside git.
    """

    out: Path
    smoke: bool = False
    budget_s: float = 540.0
    rounds: int = 15
    mode: str = "default"
    families: Sequence[str] = tuple(FAMILIES)
    forms: Sequence[str] = tuple(GPU_FORMS.values())
    commit: str | None = None
    jobs: int = 0
    missing: bool = False


@dataclass
class Outcome:
    """Rows of one part, what failed, what was left undone, and the file."""

    rows: Rows = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    path: Path | None = None


def measure_kernels(options: Options) -> Outcome:
    """Every kernel at every size.

    Raises:
        RuntimeError: there is no GPU.
    """
    clock, outcome, budget = clock_of(options), Outcome(), Budget(options.budget_s)
    known = {op.name for op in ALL}
    chosen: Iterable[Case] = smoke_cases() if options.smoke else cases()
    there = _there("gpu_kernels", gpu_kernels.KEYS, options)
    for case in (case for case in chosen if case.op in known and gpu_kernels.key_of(case) not in there):
        name = f"{case.op} {case.where} {case.scalar}"
        if not budget.begin():
            outcome.undone.append(name)
            continue
        try:
            row = gpu_kernels.measure(case, clock, options.rounds)
        except (RuntimeError, DeviceError, CompileError) as error:
            outcome.failures.append(f"{name}: {error}")
            continue
        if row["correct"] != "yes":
            outcome.failures.append(f"{name}: off by {row['max_error']}")
        outcome.rows.append({**row, **circumstances(options)})
        outcome.path = _write("gpu_kernels", outcome.rows, gpu_kernels.PACKAGES, gpu_kernels.KEYS, options)
        _forget(clock)
    return outcome


def measure_models(options: Options, settings: Sequence["Setting"]) -> Outcome:
    """Every family at every setting.

    Raises:
        RuntimeError: there is no GPU.
    """
    from benchmarks import gpu_models  # kernels are measured without timm, too
    from benchmarks.gpu_ahead import compile_ahead

    clock, outcome, budget = clock_of(options), Outcome(), Budget(options.budget_s)
    there = _there("gpu_models", gpu_models.KEYS, options)
    settings = [setting for setting in settings if gpu_models.vit_key_of(setting, options.mode) not in there]
    if options.jobs:
        began = time.monotonic()
        done = compile_ahead(
            settings, options.families, options.forms, clock.device, options.mode, options.jobs, options.budget_s / 2
        )
        print(f"{done} models compiled ahead in {time.monotonic() - began:.0f} s", file=sys.stderr)
    for setting in settings:
        if not budget.begin():
            outcome.undone.append(str(setting))
            continue
        rows, failures = gpu_models.measure(
            setting, clock, options.rounds, options.mode, options.families, options.forms
        )
        outcome.failures += failures
        outcome.rows += [{**row, **circumstances(options)} for row in rows]
        if outcome.rows:
            outcome.path = _write("gpu_models", outcome.rows, gpu_models.PACKAGES, gpu_models.KEYS, options)
        _forget(clock)
    if options.jobs:
        hits = torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"]
        print(f"{hits} models needed no compiling any more", file=sys.stderr)
    return outcome


class Budget:
    """Time that may be spent: another piece may begin while the longest so far would still fit."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._began: float | None = None
        self._longest = 0.0

    def begin(self) -> bool:
        """Whether another piece may begin now; the piece before it ends with this call."""
        now = time.monotonic()
        if self._began is not None:
            self._longest = max(self._longest, now - self._began)
        fits = now + self._longest < self._end
        self._began = now if fits else None
        return fits


def clock_of(options: Options) -> Clock:
    """The GPU's clock, or the CPU's for a smoke test.

    Raises:
        RuntimeError: there is no GPU.
    """
    if options.smoke:
        return CpuClock()
    if not torch.cuda.is_available():
        raise RuntimeError(
            "`gpu` needs an NVIDIA GPU and a build of torch for CUDA; --smoke runs the program on the CPU, for a test"
        )
    return GpuClock()


def circumstances(options: Options) -> Mapping[str, object]:
    """Columns that say what was measured on."""
    if options.smoke:
        return {"device": "cpu smoke", "driver": "", "cuda": ""}
    return {"device": torch.cuda.get_device_name(), "driver": _driver(), "cuda": torch.version.cuda or ""}


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.split()[0] if found.split() else "unknown"


def _there(what: str, keys: Sequence[str], options: Options) -> set[tuple[str, ...]]:
    """Keys of the rows that need not be measured again."""
    if not options.missing or options.smoke:
        return set()
    gpu = torch.cuda.get_device_name()
    return {tuple(row[key] for key in keys) for row in read_rows(what, options.out) if row["machine"] == gpu}


def _write(what: str, rows: Rows, packages: Sequence[str], keys: Sequence[str], options: Options) -> Path:
    if options.smoke:
        return write_rows(f"smoke_{what}", rows, packages, options.out)
    gpu = torch.cuda.get_device_name()
    return write_rows(what, rows, packages, options.out, machine=gpu, commit=options.commit, keys=keys)


def _forget(clock: Clock) -> None:
    """Frees graphs, their memory and compiled code before the next piece."""
    torch._dynamo.reset()
    gc.collect()
    if clock.device.type == "cuda":
        torch.cuda.empty_cache()
