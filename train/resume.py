"""The resume state: what a killed run needs to go on as if nothing had happened.

    <run>/state/step-00000123/*.safetensors

Weights, their average, AdamW's moments and the step. There is no random state to save: every random number of a run
follows from the seed, the step and the rank (see train/batches.py). The files are torch's distributed checkpoint in
its safetensors form, so that a state written by many processes can be read by few, and no pickle is involved.

A state is written under a temporary name and renamed when it is complete on disk; only then the one before it goes. A
kill at any instant leaves a complete state, the new one or the old.
"""

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from train.distributed import Process
from train.ema import Ema
from train.optim import start_state

STATE = "state"
_PREFIX = "step-"


class ResumeError(Exception):
    """A resume state cannot be used; the message names it and says what to do."""


def latest_step(run: Path) -> int | None:
    """Step of the newest complete state of a run, or None."""
    steps = [int(p.name.removeprefix(_PREFIX)) for p in (run / STATE).glob(f"{_PREFIX}[0-9]*") if p.is_dir()]
    return max(steps, default=None)


def save_state(run: Path, step: int, tensors: dict[str, Tensor], process: Process) -> None:
    """Writes the state after ``step`` steps, then removes older ones; every process must call this.

    Raises:
        ResumeError: it cannot be written; the state before it stays.
    """
    final, staging = _folder(run, step), run / STATE / ".writing"
    if process.leads:
        shutil.rmtree(staging, ignore_errors=True)  # of a run killed while it wrote
        staging.mkdir(parents=True)
    process.barrier()
    try:
        with _quiet():
            writer = HuggingFaceStorageWriter(str(staging), save_distributed=True)
            save({**tensors, "step": torch.tensor([step])}, storage_writer=writer, no_dist=process.world == 1)
    except (Exception, CheckpointException) as error:
        if process.leads:
            shutil.rmtree(staging, ignore_errors=True)
        raise ResumeError(
            f"{final} cannot be written ({_reason(error)}); make room there, and go on with --resume"
        ) from None
    process.barrier()
    if process.leads:
        shutil.rmtree(final, ignore_errors=True)
        staging.rename(final)
        _sync(final.parent)
        for old in final.parent.glob(f"{_PREFIX}*"):
            if old != final:
                shutil.rmtree(old, ignore_errors=True)
    process.barrier()


def load_state(run: Path, step: int, tensors: dict[str, Tensor], process: Process) -> None:
    """Fills ``tensors`` in place from the state of ``step``, whatever number of processes wrote it.

    Raises:
        ResumeError: it is damaged, or was made by another model.
    """
    folder, found = _folder(run, step), torch.tensor([-1])
    try:
        with _quiet():
            reader = HuggingFaceStorageReader(str(folder))
            load({**tensors, "step": found}, storage_reader=reader, no_dist=process.world == 1)
    except (Exception, CheckpointException) as error:  # DCP's is no Exception; safetensors and the system have others
        raise ResumeError(f"{folder} cannot be resumed from ({_reason(error)}); remove {run} to start again") from None
    if int(found) != step:
        raise ResumeError(f"{folder} holds step {int(found)}, its name says {step}; remove {run} to start again")


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None) -> dict[str, Tensor]:
    """Every tensor of a run by name, sharing memory with it; AdamW's moments are made where they are not yet."""
    if not optimizer.state:
        start_state(optimizer)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{name}": tensor for name, tensor in ema.shadow.items()}
    for name, parameter in model.named_parameters():
        moments = optimizer.state[parameter]
        tensors |= {f"optim.{name}.{key}": moments[key] for key in ("exp_avg", "exp_avg_sq")}
    return tensors


def set_optimizer_step(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Tells AdamW how many steps were taken: its bias correction depends on it."""
    for moments in optimizer.state.values():
        moments["step"].fill_(float(step))


def _reason(error: BaseException) -> str:
    """The last line: DCP's errors are whole tracebacks."""
    text = str(error).strip()
    return text.splitlines()[-1] if text else type(error).__name__


def _folder(run: Path, step: int) -> Path:
    return run / STATE / f"{_PREFIX}{step:08d}"


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # without this, a power cut may undo the rename
    finally:
        os.close(handle)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # torch says so although no_dist=True said it first
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
