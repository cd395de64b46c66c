"""Time on a GPU: a call is captured as a CUDA graph, and its replays are timed by the GPU's own events.

A graph leaves out what Python and the launches of many small kernels cost, for baselines as for our own. The clock of
the CPU runs the same code without a GPU, to test it; its figures mean nothing.
"""

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

_LEAST_S = 1e-3  # per reading: many times the resolution of an event


class Clock(Protocol):
    """What times calls on one device.

    Attributes:
        device: where the tensors of a call must lie.
        cache_bytes: of the cache that stands before the device's memory.
    """

    device: torch.device
    cache_bytes: int

    def readings(self, call: Callable[[], Any]) -> Callable[[], float]:
        """A function that gives a fresh reading of how long ``call`` takes, in seconds, at each call of its own."""


class GpuClock:
    """The clock of the current GPU. It makes cuDNN try its algorithms, outside the time: baselines get their best."""

    def __init__(self) -> None:
        torch.backends.cudnn.benchmark = True
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.cache_bytes = int(torch.cuda.get_device_properties(self.device).L2_cache_size)

    def readings(self, call: Callable[[], Any]) -> Callable[[], float]:
        return _Replays(call)


class CpuClock:
    """The CPU's clock."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.cache_bytes = 1 << 12

    def readings(self, call: Callable[[], Any]) -> Callable[[], float]:
        def read() -> float:
            start = time.perf_counter()
            call()
            return max(time.perf_counter() - start, 1e-9)

        return read


class _Replays:
    """Readings of one call's graph."""

    def __init__(self, call: Callable[[], Any]) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles, loads and chooses algorithms outside the capture
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.result = call()  # the graph writes its memory, so it must live as long
        self._start, self._end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._replays = 1
        self()
        self._replays = min(100, math.ceil(_LEAST_S / max(self(), 1e-7)))

    def __call__(self) -> float:
        self._start.record()
        for _ in range(self._replays):
            self._graph.replay()
        self._end.record()
        self._end.synchronize()
        return self._start.elapsed_time(self._end) / 1e3 / self._replays
