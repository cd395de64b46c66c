"""Runs an engine: buckets of batch sizes with a CUDA graph each, and two batches in flight.

One class for TensorRT and TensorRT-RTX, without torch. Nothing here is imported unless an engine is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trt_plugins.engine_plan import EngineError
from trt_plugins.flavors import Tensorrt

__all__ = ["EngineError", "EngineTensor", "Session", "open_session"]

Array = npt.NDArray[Any]
Memory = Literal["auto", "cuda-core", "pycuda"]


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of an engine: ``row`` is its shape without the batch, as this session runs it."""

    name: str
    dtype: np.dtype[Any]
    row: tuple[int, ...]


class Session:
    """An open engine. ``run`` may be called from any number of threads; two batches are in flight at a time.

    Attributes:
        inputs, outputs: in the engine's order.
        max_batch: most rows of one run.
        buckets: the batch sizes that the engine runs; others are padded up.
        gpu: name of the GPU.
    """

    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    max_batch: int
    buckets: tuple[int, ...]
    gpu: str

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs rows (B, ...) of every input, and returns those of every output; blocks until they are there.

        Raises:
            ValueError: names, dtypes or shapes are not the engine's, or B is not 1 to ``max_batch``.
            EngineError: the engine failed, or the session is closed.
        """
        raise EngineError("engines need an NVIDIA GPU")

    def close(self) -> None:
        """Waits for the runs in flight and frees everything; harmless when repeated."""


def open_session(
    path: Path,
    tensorrt: Tensorrt,
    *,
    memory: Memory = "auto",
    rows: Mapping[str, tuple[int, ...]] | None = None,
    max_batch: int | None = None,
) -> Session:
    """Opens a plan file, which the caller has verified, on the current GPU, and warms up every bucket.

    Args:
        memory: who allocates and copies; ``auto`` is cuda-core where installed, else pycuda.
        rows: shape without the batch of inputs that the engine takes in several sizes; without it, the profile's usual.
        max_batch: leaves out the buckets over it; without it, up to the profile's largest.

    Raises:
        EngineError: built by another version, for another GPU, damaged, or there is no GPU; it says what to do.
    """
    raise EngineError(f"{path} needs an NVIDIA GPU to run; here is none")
