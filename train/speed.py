"""How fast two models are beside each other: in turns, so that what else a machine does hits both alike."""

import statistics
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

_ROUNDS = 5
_LEAST_SECONDS = 0.02  # of one turn: above what clocks resolve


class Rates(NamedTuple):
    """Images per second, of the first model and the second."""

    first: float
    second: float


def clock_of(device: torch.device) -> str:
    """What `rates` counts as time there, in words."""
    return "of wall time" if device.type == "cuda" else "of one thread's CPU time"


@torch.no_grad()
def rates(first: nn.Module, second: nn.Module, images: Tensor) -> Rates:
    """Medians over 5 rounds, in each of which both models take their turn; pictures (B, 3, H, W) as one batch.

    On a CPU, one thread works and its own time is counted, which other programs on the machine do not add to.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        counts = [_repeats(model, images) for model in (first, second)]
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(_ROUNDS):
            for model, repeats, times in zip((first, second), counts, taken, strict=True):
                times.append(_seconds(model, images, repeats) / repeats)
    finally:
        torch.set_num_threads(threads)
    return Rates(*(len(images) / statistics.median(times) for times in taken))


def _repeats(model: nn.Module, images: Tensor) -> int:
    _seconds(model, images, 1)  # the first pass also allocates
    return max(1, round(_LEAST_SECONDS / max(_seconds(model, images, 1), 1e-6)))


def _seconds(model: nn.Module, images: Tensor, repeats: int) -> float:
    on_gpu = images.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.thread_time
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    for _ in range(repeats):
        model(images)
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start
