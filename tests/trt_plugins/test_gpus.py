"""Which GPU is here, by what cuda-core says, or does not say."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from trt_plugins.gpus import Gpu, find_gpu


def pretend(monkeypatch: pytest.MonkeyPatch, device: object) -> None:
    module = ModuleType("cuda.core")
    vars(module)["Device"] = device
    monkeypatch.setitem(sys.modules, "cuda.core", module)


def test_the_first_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def device(index: int) -> object:
        assert index == 0
        return SimpleNamespace(
            set_current=lambda: None, name="NVIDIA H200", compute_capability=SimpleNamespace(major=9, minor=0)
        )

    pretend(monkeypatch, device)
    assert find_gpu() == Gpu("NVIDIA H200", (9, 0))


def test_without_a_driver_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def device(_: int) -> object:
        raise RuntimeError("libcuda is not found")

    pretend(monkeypatch, device)
    assert find_gpu() is None


def test_without_cuda_core_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    assert find_gpu() is None
