"""The exponential moving average of the weights, which is what evaluation and the checkpoint get."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def decay_at(step: int, decay: float) -> float:
    """Decay of update t = ``step``, from 0: min(decay, (1 + t) / (10 + t)), so that the random start is forgotten."""
    return min(decay, (1 + step) / (10 + step))


class Ema:
    """A second set of weights following a model's. Sharded weights stay sharded: nothing is gathered per step."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.live = model.state_dict()
        self.shadow = {name: tensor.detach().clone() for name, tensor in self.live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """shadow <- d shadow + (1 - d) weights, d = decay_at(step); integers, such as counters, are copied."""
        weight = 1 - decay_at(step, self.decay)
        floating = [name for name, tensor in self.live.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [local(self.shadow[name]) for name in floating], [local(self.live[name]) for name in floating], weight
        )
        for name in self.live.keys() - floating:
            self.shadow[name].copy_(self.live[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights within this block, and its own again afterwards, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # FSDP2's root keeps its gathered weights after a forward pass without backward, and would use them again.
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        for name, tensor in self.live.items():
            mine, theirs = local(self.shadow[name]), local(tensor)
            kept = theirs.clone()
            theirs.copy_(mine)
            mine.copy_(kept)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
