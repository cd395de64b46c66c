"""Run by test_device_memory.py where libcuda is the fake driver: the real cuda-core, by itself and under a session."""

import ctypes
import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.trt_plugins.memory_contract import CHECKS
from trt_plugins.device_memory import open_memory
from trt_plugins.engine_plan import Plan
from trt_plugins.flavors import Tensorrt
from trt_plugins.session import start_session

DRIVER = ctypes.CDLL("libcuda.so.1")
ROW = (4, 4, 3)


class CopyingContext:
    """An engine whose output is its input: one copy on the device, queued through the driver as kernels are."""

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}
        self.batch = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.batch, *ROW)

    def execute_async_v3(self, stream: int) -> bool:
        size = self.batch * int(np.prod(ROW))
        to, source = (ctypes.c_ulonglong(self.addresses[name]) for name in ("out", "in"))
        return DRIVER.cuMemcpyAsync(to, source, ctypes.c_size_t(size), ctypes.c_void_p(stream)) == 0


def run_session() -> None:
    engine = SimpleNamespace(
        num_io_tensors=2,
        device_memory_size_v2=0,
        get_tensor_name=["in", "out"].__getitem__,
        get_tensor_mode=lambda name: name,
        get_tensor_dtype=lambda name: SimpleNamespace(name="UINT8"),
        get_tensor_shape=lambda name: (-1, *ROW),
        get_tensor_profile_shape=lambda name, profile: [(1, *ROW), (4, *ROW), (8, *ROW)],
        create_execution_context=lambda strategy: CopyingContext(),
    )
    module: Any = SimpleNamespace(
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=None),
    )
    plan = Plan(engine, None, SimpleNamespace(kept=[]))
    memory = open_memory("auto")
    session = start_session(plan, Tensorrt(module, "tensorrt", "0"), memory, Path("x"), rows={}, max_batch=None)
    assert session.gpu == "Fake GPU"
    for count in (1, 5, 8, 3):
        rows = np.random.default_rng(count).integers(0, 256, (count, *ROW), dtype=np.uint8)
        np.testing.assert_array_equal(session.run({"in": rows})["out"], rows)
    session.close()


if __name__ == "__main__":
    backend = open_memory("cuda-core")
    for check in CHECKS:
        with backend.current():
            check(backend)
        print(check.__name__)
    run_session()
    gc.collect()
    assert DRIVER.fake_held() == 0, f"{DRIVER.fake_held()} things were not given back"
    print("session")
