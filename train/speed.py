"""How fast models, or parts of one, are beside each other: in turns, so that what else a machine does hits all alike.

On a CPU one thread works and its own time is counted, which other programs on the machine do not add to; on a GPU it is
the wall clock with the device synchronised.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

_ROUNDS = 5
_LEAST_SECONDS = 0.02  # of a model's turn: above what clocks resolve
Name = TypeVar("Name", bound=Hashable)


class Rates(NamedTuple):
    """Images per second, of the first model and the second."""

    first: float
    second: float


def clock_of(device: torch.device) -> str:
    """In words, what is measured on a device."""
    return "CPU time of one thread" if device.type == "cpu" else "wall clock, synchronised"


@torch.no_grad()
def rates(
    first: nn.Module, second: nn.Module, images: Tensor, progress: Callable[[int], None] = lambda _: None
) -> Rates:
    """Medians over 5 rounds, in each of which both models take their turn; pictures (B, 3, H, W) as one batch.

    Args:
        progress: hears of each round.
    """
    models = {0: lambda: first(images), 1: lambda: second(images)}
    medians = interleaved(images.device, models, _ROUNDS, progress, _LEAST_SECONDS)
    return Rates(len(images) / medians[0], len(images) / medians[1])


def interleaved(
    device: torch.device,
    pieces: Mapping[Name, Callable[[], object]],
    rounds: int,
    progress: Callable[[int], None] = lambda _: None,
    least: float = 0.0,
) -> dict[Name, float]:
    """Median seconds of each piece over rounds in which each has its turn.

    Args:
        progress: hears of each round.
        least: seconds that a turn takes at least; a piece that is done sooner is repeated.
    """
    turns: dict[Name, list[float]] = {name: [] for name in pieces}
    with _one_thread(device):
        repeats = {name: _repeats(run, device, least) for name, run in pieces.items()}
        for _ in range(rounds):
            for name, run in pieces.items():
                turns[name].append(_seconds(run, device, repeats[name]) / repeats[name])
            progress(1)
    return {name: statistics.median(seconds) for name, seconds in turns.items()}


def _repeats(run: Callable[[], object], device: torch.device, least: float) -> int:
    run()  # the first run also allocates
    return max(1, round(least / max(_seconds(run, device, 1), 1e-6))) if least else 1


def _seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    start = _now(device)
    for _ in range(repeats):
        run()
    return _now(device) - start


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.thread_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)
