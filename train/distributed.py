"""Processes: one by default, several under torchrun. Plain torch: DDP copies the model, FSDP2 shards it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel


class StrategyError(ValueError):
    """The recipe's device or strategy does not go with the machine or the number of processes."""


@dataclass(frozen=True)
class Process:
    """This process's place among ``world`` processes."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Mean of ``values`` over the processes; every process must call this, and all get the same."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def gather(self, tensor: Tensor) -> Tensor:
        """Tensors (n, ...) of one shape from all processes, interleaved: row i of rank r goes to row i * world + r."""
        if self.world == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)  # (n, world, ...) -> (n * world, ...)

    def barrier(self) -> None:
        """Waits for the other processes."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def processes(device: Literal["auto", "cpu", "cuda"]) -> Iterator[Process]:
    """Joins the other processes where torchrun started several, and leaves them at the end.

    Raises:
        StrategyError: a GPU is asked for that is not there.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    here = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if here.type == "cuda":
        torch.cuda.set_device(here)
    if world == 1:
        yield Process(0, 1, here)
        return
    if here.type == "cuda":
        dist.init_process_group("nccl", device_id=here, timeout=timedelta(minutes=30))
    else:
        dist.init_process_group("gloo", timeout=timedelta(minutes=30))
    try:
        yield Process(rank, world, here)
    finally:
        dist.destroy_process_group()


def _device(device: str, local_rank: int) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and local_rank >= torch.cuda.device_count():
        raise StrategyError(
            f"run.device = 'cuda' needs GPU number {local_rank}, this machine shows {torch.cuda.device_count()}; "
            "use --set run.device=cpu, or start fewer processes"
        )
    return torch.device(device, local_rank) if device == "cuda" else torch.device(device)


def distribute(model: nn.Module, strategy: str, process: Process) -> nn.Module:
    """Prepares a model, the same on every process, for training by all of them.

    Returns:
        The module to call. For FSDP it is ``model`` itself, its weights now DTensors; for DDP it wraps ``model``.

    Raises:
        StrategyError: several processes with strategy ``single``.
    """
    if strategy == "auto":
        strategy = "ddp" if process.world > 1 else "single"
    if strategy == "single":
        if process.world > 1:
            raise StrategyError(f"run.strategy = 'single' cannot use {process.world} processes; use auto, ddp or fsdp")
        return model
    if process.world == 1:
        raise StrategyError(
            f"run.strategy = {strategy!r} needs several processes; start with torchrun --nproc-per-node N -m train.run"
        )
    if strategy == "ddp":
        return DistributedDataParallel(
            model, device_ids=[process.device] if process.device.type == "cuda" else None, gradient_as_bucket_view=True
        )
    mesh = init_device_mesh(process.device.type, (process.world,))
    # Each block gathers its own weights just before use; what is left (embedding, norm, head) goes with the root.
    for block in getattr(model, "blocks", ()):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def sync_gradients(model: nn.Module, wanted: bool) -> None:
    """Whether the next backward pass exchanges gradients; accumulation wants it in the last part only."""
    if isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = wanted  # what no_sync() sets
    elif isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(wanted)
