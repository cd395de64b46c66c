"""What the runner of engines costs the CPU for each batch, with a GPU that is not there: a stubbed context, no GPU.

Copies to and from the GPU, graphs and waiting are stubs that do nothing, so what is left is the runner's own work, the
copy of the pixels into page-locked memory, and that of the results out of it. The copies are also timed on their own.
What CUDA's own calls take, a launch, an event and a wait for each batch, is not in it.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from trt_plugins.device_memory import DeviceBuffer, PinnedBuffer, Stream
from trt_plugins.engine_plan import Plan
from trt_plugins.flavors import Tensorrt
from trt_plugins.session import Session, start_session

PACKAGES = ("numpy",)
_CLASSES = 1000
_BATCHES_A_ROUND = 200


def measure(batches: list[int], sides: list[int], rounds: int) -> list[dict[str, object]]:
    """One row for each batch and side: CPU microseconds of the calling thread per batch, medians over ``rounds``."""
    return [_row(batch, side, rounds) for side in sides for batch in batches]


def _row(batch: int, side: int, rounds: int) -> dict[str, object]:
    session = _stubbed(batch, side)
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    rows = list(pixels)
    staging, results = np.zeros_like(pixels), np.zeros((batch, _CLASSES), np.float32)

    def copies() -> None:
        for index, row in enumerate(rows):
            staging[index] = row
        results.copy()

    ways: dict[str, Callable[[], object]] = {
        "run_us": lambda: session.run({"pixels": rows}),
        "copies_us": copies,
    }
    times: dict[str, list[float]] = {name: [] for name in (*ways, "own_us")}
    for way in ways.values():
        way()  # touches every page, outside the time
    for _ in range(rounds):
        taken = {name: _cpu_us(way) for name, way in ways.items()}
        for name, value in taken.items():
            times[name].append(value)
        times["own_us"].append(taken["run_us"] - taken["copies_us"])
    session.close()
    return {
        "batch": batch,
        "side_px": side,
        **{name: round(statistics.median(values), 1) for name, values in times.items()},
        "rounds": rounds,
        "note": "stubbed context, no GPU",
    }


def _cpu_us(way: Callable[[], object]) -> float:
    started = time.thread_time_ns()
    for _ in range(_BATCHES_A_ROUND):
        way()
    return (time.thread_time_ns() - started) / _BATCHES_A_ROUND / 1000


class _NoGpu:
    """A DeviceBackend of which only host memory is real."""

    name = "none"
    gpu = "none"
    has_graphs = True

    @contextmanager
    def current(self) -> Iterator[None]:
        yield

    def stream(self) -> Stream:
        return Stream(0, None)

    def on_device(self, size: int, stream: Stream) -> DeviceBuffer:
        return DeviceBuffer(256, size, None)

    def pinned(self, size: int) -> PinnedBuffer:
        return PinnedBuffer(np.zeros(size, np.uint8), None)

    def copy_in(self, source: PinnedBuffer, target: DeviceBuffer, size: int, stream: Stream) -> None:
        pass

    def copy_out(self, source: DeviceBuffer, target: PinnedBuffer, size: int, stream: Stream) -> None:
        pass

    def synchronize(self, stream: Stream) -> None:
        pass

    def capture(self, stream: Stream, work: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def free(self, *held: Stream | DeviceBuffer | PinnedBuffer) -> None:
        pass


def _stubbed(batch: int, side: int) -> Session:
    """A session of a classifier whose context takes everything and computes nothing."""
    shapes = {"pixels": (batch, side, side, 3), "probabilities": (batch, _CLASSES)}
    context = SimpleNamespace(
        set_device_memory=lambda memory, size: None,
        set_input_shape=lambda name, shape: True,
        set_tensor_address=lambda name, address: True,
        get_tensor_shape=shapes.__getitem__,
        execute_async_v3=lambda stream: True,
    )
    engine = SimpleNamespace(
        num_io_tensors=2,
        device_memory_size_v2=0,
        get_tensor_name=list(shapes).__getitem__,
        get_tensor_mode=lambda name: "INPUT" if name == "pixels" else "OUTPUT",
        get_tensor_dtype=lambda name: SimpleNamespace(name="UINT8" if name == "pixels" else "FLOAT"),
        get_tensor_shape=shapes.__getitem__,
        create_execution_context=lambda strategy: context,
    )
    module: Any = SimpleNamespace(
        TensorIOMode=SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=None),
    )
    plan = Plan(engine, None, SimpleNamespace(kept=[]))
    tensorrt = Tensorrt(module, "tensorrt", "none")
    return start_session(plan, tensorrt, _NoGpu(), Path("stub"), rows={}, max_batch=None)
