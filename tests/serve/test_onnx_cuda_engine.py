"""ONNX Runtime with CUDA: it runs on the GPU, or it says that it does not. Without one the latter is all there is."""

import json
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serve.engines import onnx_cuda_engine
from serve.engines.engine import EngineUnavailable, OnnxCpuEngine
from serve.engines.onnx_cuda_engine import PROVIDER, OnnxCudaEngine
from skipvit.artifacts import read_entry
from tests.serve.servers import write_model


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_model(tmp_path)
    return tmp_path


@pytest.mark.skipif(onnx_cuda_engine.has_cuda_build(), reason="ONNX Runtime is the one with CUDA here")
def test_the_build_for_cpus_is_refused(root: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"needs ONNX Runtime with CUDA, the one here is for CPUs"):
        OnnxCudaEngine.from_entry(read_entry(root, "shades"))


def test_the_server_for_gpus_brings_no_second_onnx_runtime() -> None:
    """onnxruntime and onnxruntime-gpu overwrite each other's files."""
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def names(extra: str) -> set[str]:
        found: set[str] = set()
        for need in extras[extra]:
            inner = re.match(r"skipvit\[([\w,-]+)\]", need)
            if inner:
                found = found.union(*(names(one) for one in inner[1].split(",")))
            else:
                found |= set(re.findall(r"^[\w-]+", need))
        return found

    assert {"onnxruntime-gpu", "fastapi", "cuda-core"} <= names("serve-gpu")
    assert "onnxruntime" not in names("serve-gpu") | names("video")
    assert "onnxruntime" in names("serve")
    assert names("serve") - {"onnxruntime"} <= names("serve-gpu"), "a server needs the same whatever runs its models"


class Fallen:
    """ONNX Runtime's build for GPUs on a machine without one: it opens on the CPU and says nothing but a log line."""

    def __init__(self, providers: list[str]) -> None:
        self.providers = providers
        self.asked: Any = None

    def __call__(self, path: str, options: object, providers: Any) -> Any:
        self.asked = providers
        inputs = [SimpleNamespace(name="image", type="tensor(uint8)", shape=["batch", 8, 8, 3])]
        outputs = [SimpleNamespace(name="probabilities", type="tensor(float)", shape=["batch", 10])]
        return SimpleNamespace(
            get_providers=lambda: self.providers,
            get_inputs=lambda: inputs,
            get_outputs=lambda: outputs,
            disable_fallback=lambda: self.providers.append("no fallback"),
        )


def test_falling_back_to_the_cpu_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_cuda_engine.ort, "get_available_providers", lambda: [PROVIDER, "CPUExecutionProvider"])
    monkeypatch.setattr(onnx_cuda_engine.ort, "InferenceSession", Fallen(["CPUExecutionProvider"]))
    with pytest.raises(EngineUnavailable, match=r"cannot use CUDA here and would run .*model\.onnx on the CPU"):
        OnnxCudaEngine.from_entry(read_entry(root, "shades"))


def test_what_is_asked_of_cuda(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Fallen([PROVIDER, "CPUExecutionProvider"])
    monkeypatch.setattr(onnx_cuda_engine.ort, "get_available_providers", lambda: [PROVIDER, "CPUExecutionProvider"])
    monkeypatch.setattr(onnx_cuda_engine.ort, "InferenceSession", session)
    assert OnnxCudaEngine.from_entry(read_entry(root, "shades")).classes == 10
    (provider, options), _ = session.asked
    assert provider == PROVIDER
    assert options["use_tf32"] == "0"
    assert session.providers[-1] == "no fallback", "not even when a run fails"
    assert json.dumps(options), "ONNX Runtime takes text"


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives(root: Path) -> None:
    entry = read_entry(root, "shades")
    batch = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    on_gpu, on_cpu = OnnxCudaEngine.from_entry(entry), OnnxCpuEngine.from_entry(entry)
    np.testing.assert_allclose(on_gpu.run(batch), on_cpu.run(batch), rtol=1e-4, atol=1e-6)
    on_gpu.close()
    on_cpu.close()
