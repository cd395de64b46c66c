"""Both backends of memory keep one contract: on a GPU if there is one, else on a driver and a module of ours."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.trt_plugins.fake_gpu import FakeGpu, FakeMemory
from tests.trt_plugins.fake_pycuda import FakePycuda
from tests.trt_plugins.memory_contract import CHECKS
from trt_plugins.device_memory import DeviceBackend, open_memory
from trt_plugins.engine_plan import EngineError
from trt_plugins.pycuda_memory import PycudaMemory

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
Check = Callable[[DeviceBackend], None]
each_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


@each_check
def test_the_fake_that_sessions_are_tested_with(check: Check) -> None:
    gpu = FakeGpu(delay_s=0.001)
    memory = FakeMemory(gpu)
    with memory.current():
        check(memory)
    assert gpu.leftovers == (0, 0, 0)


@each_check
def test_pycuda(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    module = FakePycuda(FakeGpu(delay_s=0.001))
    monkeypatch.setitem(sys.modules, "pycuda", type(sys)("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", module)
    memory = PycudaMemory()
    with memory.current():
        check(memory)
    assert module.pushed == 0
    assert not module.gpu.memory
    assert not module.gpu.pinned


@pytest.mark.skipif(find_spec("cuda") is None or shutil.which("g++") is None, reason="needs cuda-core and g++")
def test_cuda_core_on_a_driver_without_a_gpu(tmp_path: Path) -> None:
    """The real cuda-core, which finds our libcuda in place of NVIDIA's."""
    library = tmp_path / "libcuda.so.1"
    subprocess.run(
        ["g++", "-std=c++17", "-shared", "-fPIC", "-o", str(library), str(HERE / "fake_driver.cpp")], check=True
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.trt_plugins.cuda_core_run"],
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*(check.__name__ for check in CHECKS), "session"]


@pytest.mark.skipif(find_spec("cuda") is None, reason="needs cuda-core")
@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_cuda_core_without_a_driver() -> None:
    with pytest.raises(EngineError, match=r"cuda-core finds no NVIDIA GPU to run on .* see what nvidia-smi says"):
        open_memory("cuda-core")


@pytest.mark.gpu
@each_check
@pytest.mark.parametrize("name", ["cuda-core", "pycuda"])
def test_on_a_gpu(name: str, check: Check) -> None:
    if find_spec({"cuda-core": "cuda", "pycuda": "pycuda"}[name]) is None:
        pytest.skip(f"{name} is not installed")
    memory = open_memory(name)  # type: ignore[arg-type]
    with memory.current():
        check(memory)
