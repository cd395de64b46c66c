"""Sessions of fake engines, and pictures for them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.trt_plugins.fake_gpu import FakeGpu, FakeMemory
from tests.trt_plugins.fake_tensorrt import Model, fake_tensorrt
from trt_plugins import engine_plan
from trt_plugins.session import Session, start_session

Pixels = npt.NDArray[np.uint8]


def pictures(count: int, seed: int = 0, size: int = 4) -> Pixels:
    return np.random.default_rng(seed).integers(100, 256, (count, size, size, 3), dtype=np.uint8)


def start(
    gpu: FakeGpu,
    model: Model,
    flavor: str = "tensorrt",
    has_graphs: bool = True,
    rows: dict[str, tuple[int, ...]] | None = None,
    max_batch: int | None = None,
) -> tuple[Session, FakeMemory]:
    """A session of ``model``, and the memory that counts what it does."""
    tensorrt = fake_tensorrt(gpu, {b"plan": model}, flavor)
    log = engine_plan._log(tensorrt.module)
    runtime = tensorrt.module.Runtime(log)
    plan = engine_plan.Plan(runtime.deserialize_cuda_engine(b"plan"), runtime, log)
    memory = FakeMemory(gpu, has_graphs)
    return start_session(plan, tensorrt, memory, Path("m.plan"), rows=rows or {}, max_batch=max_batch), memory
