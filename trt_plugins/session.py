"""Runs an engine: buckets of batch sizes with a CUDA graph each, and two batches in flight.

One class for TensorRT and TensorRT-RTX, without torch. While one batch computes, the other is copied in or out, and
whoever calls ``Session.run`` waits for its own only.
"""

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trt_plugins.device_memory import DeviceBackend, Memory, open_memory
from trt_plugins.engine_plan import EngineError, Plan, read_plan
from trt_plugins.engine_slot import Array, EngineTensor, Slot
from trt_plugins.engine_tensors import ContextMaker, buckets_of, find_inputs, find_outputs
from trt_plugins.flavors import Tensorrt

__all__ = ["EngineError", "EngineTensor", "Session", "open_session"]

logger = logging.getLogger(__name__)

IN_FLIGHT = 2
_CLOSE_S = 30.0


class Session:
    """An open engine. ``run`` may be called from any number of threads; two batches are in flight at a time.

    Attributes:
        inputs, outputs: in the engine's order.
        max_batch: most rows of one run.
        buckets: the batch sizes that the engine runs; others are padded up.
        gpu: name of the GPU.
    """

    def __init__(
        self, plan: Plan, maker: ContextMaker, memory: DeviceBackend, inputs: Sequence[EngineTensor],
        outputs: Sequence[EngineTensor], buckets: tuple[int, ...], slots: Sequence[Slot],
    ) -> None:  # fmt: skip
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.buckets, self.max_batch = buckets, buckets[-1]
        self.gpu = memory.gpu
        self._alive: list[Any] = [plan, maker]  # what the slots' contexts need, to be dropped from the end
        self._memory = memory
        self._slots = list(slots)
        self._free = list(slots)
        self._changed = threading.Condition()
        self._refusal = ""

    @property
    def lost(self) -> bool:
        """Whether the GPU failed in a way that only a new process cures."""
        return self._refusal.startswith("the GPU")

    def run(self, inputs: Mapping[str, Array | Sequence[Array]]) -> dict[str, Array]:
        """Runs rows (B, ...) of every input, and returns those of every output; blocks until they are there.

        An input may also be a sequence of B rows, which are then copied once instead of twice.

        Raises:
            ValueError: names, dtypes or shapes are not the engine's, or B is not 1 to ``max_batch``.
            EngineError: the engine failed, or the session is closed.
        """
        rows = self._checked(inputs)
        slot = self._take()
        try:
            with self._memory.current():
                return self._run(slot, inputs, rows)
        finally:
            with self._changed:
                self._free.append(slot)
                self._changed.notify()

    def _run(self, slot: Slot, inputs: Mapping[str, Array | Sequence[Array]], rows: int) -> dict[str, Array]:
        try:
            return slot.run(self.buckets[bisect_left(self.buckets, rows)], inputs, rows)
        except Exception as error:  # TensorRT's, the memory backend's and the driver's errors have no common base
            try:
                slot.recover()
            except Exception:
                self._refuse(f"the GPU no longer answers ({_words(error)}); restart this program, and see nvidia-smi")
                raise EngineError(self._refusal) from error
            raise EngineError(f"a batch of {rows} failed: {_words(error)}") from error

    def _checked(self, inputs: Mapping[str, Array | Sequence[Array]]) -> int:
        names = {tensor.name for tensor in self.inputs}
        if set(inputs) != names:
            raise ValueError(f"the engine takes {sorted(names)}, got {sorted(inputs)}")
        sizes = {len(given) for given in inputs.values()}
        rows = sizes.pop()
        if sizes or not 1 <= rows <= self.max_batch:
            raise ValueError(f"the engine takes 1 to {self.max_batch} rows of every input, got {rows} {list(sizes)}")
        for tensor in self.inputs:
            given = inputs[tensor.name]
            for part, row in ((given, given.shape[1:]),) if isinstance(given, np.ndarray) else _each(given):
                if part.dtype != tensor.dtype or row != tensor.row:
                    raise ValueError(
                        f"rows of {tensor.name!r} are {tensor.dtype} {list(tensor.row)}, got {part.dtype} {list(row)}"
                    )
        return rows

    def _take(self) -> Slot:
        with self._changed:
            while not self._free and not self._refusal:
                self._changed.wait()
            if self._refusal:
                raise EngineError(self._refusal)
            return self._free.pop()

    def _refuse(self, why: str) -> None:
        with self._changed:
            self._refusal = self._refusal or why
            self._changed.notify_all()

    def close(self) -> None:
        """Waits for the runs in flight and frees everything; harmless when repeated."""
        self._refuse("the session is closed")
        deadline = time.monotonic() + _CLOSE_S
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._free) == len(self._slots), deadline - time.monotonic()):
                logger.error("a batch still runs after %.0f s: its memory is left to the end of the process", _CLOSE_S)
                return
            slots, self._slots, self._free = self._slots, [], []
            alive, self._alive = self._alive, []
        with self._memory.current():
            while slots:
                try:
                    slots.pop().close()
                except (
                    Exception
                ) as error:  # a GPU that is lost takes nothing back, and its memory goes with the process
                    logger.error("an engine's memory was not freed: %s", _words(error))
            while alive:
                alive.pop()


def open_session(
    path: Path,
    tensorrt: Tensorrt,
    *,
    memory: Memory = "auto",
    rows: Mapping[str, tuple[int, ...]] | None = None,
    max_batch: int | None = None,
) -> Session:
    """Opens a plan file, which the caller has verified, on the first visible GPU, and runs every bucket once.

    Args:
        memory: who allocates and copies; ``auto`` is cuda-core where installed, else pycuda.
        rows: shape without the batch of inputs that the engine takes in several sizes; without it, the profile's usual.
        max_batch: leaves out the buckets over it; without it, up to the profile's largest.

    Raises:
        EngineError: built by another version, for another GPU, damaged, or there is no GPU; it says what to do.
    """
    plan = read_plan(path, tensorrt)
    return start_session(plan, tensorrt, open_memory(memory), path, rows=rows or {}, max_batch=max_batch)


def start_session(
    plan: Plan,
    tensorrt: Tensorrt,
    memory: DeviceBackend,
    path: Path,
    *,
    rows: Mapping[str, tuple[int, ...]],
    max_batch: int | None,
) -> Session:
    """A session of an engine and a memory that are open already; see `open_session`."""
    slots: list[Slot] = []
    with memory.current():
        try:
            inputs = find_inputs(plan.engine, tensorrt.module, rows)
            buckets = buckets_of(plan.engine, tensorrt.module, max_batch)
            maker = ContextMaker(plan.engine, tensorrt.module)
            outputs = find_outputs(plan.engine, tensorrt.module, maker, inputs, buckets[-1])
            scratch = int(plan.engine.device_memory_size_v2)
            graphs = memory.has_graphs and not maker.captures
            for _ in range(IN_FLIGHT):
                contexts = {bucket: maker() for bucket in buckets}
                slots.append(Slot(memory, contexts, inputs, outputs, scratch, graphs))
        except Exception as error:  # as in Session._run
            for slot in slots:
                slot.close()
            raise EngineError(f"{path}: {_words(error)}; TensorRT says: {plan.words()}") from error
    return Session(plan, maker, memory, inputs, outputs, buckets, slots)


def _each(rows: Sequence[Array]) -> list[tuple[Array, tuple[int, ...]]]:
    return [(row, row.shape) for row in rows]


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
