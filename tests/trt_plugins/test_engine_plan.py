"""Plans that cannot be opened: each cause gives its sentence."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trt_plugins.fake_gpu import FakeGpu
from tests.trt_plugins.fake_tensorrt import EngineValidity, classifier, fake_tensorrt
from trt_plugins import engine_plan
from trt_plugins.device_memory import open_memory
from trt_plugins.engine_plan import EngineError, read_plan, rebuild_command
from trt_plugins.flavors import Tensorrt
from trt_plugins.registration import RegistrationError


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> list[Tensorrt]:
    """The fake has no plugins to register; what was asked for is kept."""
    asked: list[Tensorrt] = []

    def register(tensorrt: Tensorrt) -> tuple[str, ...]:
        asked.append(tensorrt)
        return ()

    monkeypatch.setattr(engine_plan, "register", register)
    return asked


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "digits" / "1" / "model.fp16.plan"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"plan")
    return path


# What TensorRT and TensorRT-RTX write, as seen here and in NVIDIA/TensorRT's issues; and what the sentence must have.
REFUSALS = {
    "version": (
        "The engine plan file is not compatible with this version of TensorRT, expecting library version 11.4.0.1 got "
        "10.10.0.31, please rebuild.",
        "was built by another version; here is TensorRT 9.9.9",
    ),
    "gpu": (
        "The engine plan file is generated on an incompatible device, expecting compute 9.0 got compute 8.9, please "
        "rebuild.",
        "was built for another GPU",
    ),
    "plugin": (
        "IPluginRegistry::getCreator: Error Code 4: API Usage Error (Cannot find plugin: TokenDwConvGelu, version: 1, "
        "namespace:skipvit.)",
        "needs a plugin that is not registered",
    ),
    "no driver": (
        "Error Code 1: Cuda Runtime (In ScopedCudaStream (cudaError 35: CUDA driver version is insufficient for CUDA "
        "runtime version))",
        "there is no NVIDIA GPU or no driver here",
    ),
    "memory": ("Error Code 2: OutOfMemory (Requested size was 12884901888 bytes.)", "does not fit"),
    "damaged": ("Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.", "is damaged, or no engine"),
    "else": ("Error Code 9: Internal Error (Assertion x failed.)", "cannot be opened by TensorRT 9.9.9"),
}


@pytest.mark.parametrize("cause", REFUSALS)
def test_each_refusal_says_what_to_do(plan: Path, cause: str) -> None:
    words, sentence = REFUSALS[cause]
    model = classifier()
    model.refusal = words
    with pytest.raises(EngineError) as caught:
        read_plan(plan, fake_tensorrt(FakeGpu(), {b"plan": model}))
    said = str(caught.value)
    assert sentence in said
    assert str(plan) in said
    assert words[:60] in said, "TensorRT's own words are kept"
    if cause != "no driver":
        assert f"skipvit-to-trt --force {plan.parent}" in said


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [(1, "was built by another version; here is TensorRT-RTX 9.9.9"), (2, "was built for another GPU"),
     (4, "needs a newer NVIDIA driver"), (32, "is damaged"), (0, "cannot be opened by TensorRT-RTX")],
)  # fmt: skip
def test_an_invalid_plan_is_refused_by_its_diagnostics(plan: Path, mask: int, sentence: str) -> None:
    model = classifier()
    model.validity = (EngineValidity.INVALID, mask)
    with pytest.raises(EngineError, match=sentence):
        read_plan(plan, fake_tensorrt(FakeGpu(), {b"plan": model}, "tensorrt-rtx"))


def test_a_suboptimal_plan_is_opened_with_a_warning(plan: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = classifier()
    model.validity = (EngineValidity.SUBOPTIMAL, 0)
    assert read_plan(plan, fake_tensorrt(FakeGpu(), {b"plan": model}, "tensorrt-rtx")).engine is not None
    assert "not as fast as it could" in caplog.text


def test_plugins_are_registered_before_a_plan_is_read(plan: Path, registered: list[Tensorrt]) -> None:
    tensorrt = fake_tensorrt(FakeGpu(), {b"plan": classifier()})
    read_plan(plan, tensorrt)
    assert registered == [tensorrt]


def test_plugins_that_are_refused_are_an_engines_error(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tensorrt: Tensorrt) -> None:
        raise RegistrationError("TensorRT refuses the plugin skipvit::EcaGate")

    monkeypatch.setattr(engine_plan, "register", refuse)
    with pytest.raises(EngineError, match="may need our plugins, and TensorRT refuses the plugin"):
        read_plan(plan, fake_tensorrt(FakeGpu(), {b"plan": classifier()}))


def test_a_runtime_that_does_not_start_is_an_engines_error(plan: Path) -> None:
    """Full TensorRT without a driver: its bindings make a null pointer a TypeError."""
    tensorrt = fake_tensorrt(FakeGpu(), {b"plan": classifier()})

    def runtime(log: Any) -> None:
        log.log(log.Severity.INTERNAL_ERROR, "CUDA initialization failure with error: 35. Please check your CUDA")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    tensorrt.module.Runtime = runtime
    with pytest.raises(EngineError, match=r"there is no NVIDIA GPU or no driver here \(CUDA initialization failure"):
        read_plan(plan, tensorrt)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("model.fp32.rtx.plan", " --flavor rtx --precision fp32"),
        ("model.fp16.sm90.plan", " --flavor tensorrt --precision fp16"),
        ("x.plan", ""),
    ],
)
def test_the_command_builds_that_very_engine(name: str, options: str) -> None:
    assert rebuild_command(Path("my models/x/1") / name) == f"skipvit-to-trt --force 'my models/x/1'{options}"


def test_a_missing_plan_names_the_command_that_builds_it(tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match=r"cannot be read: .*; build it with skipvit-to-trt --force MODEL\.onnx --out .*none\.plan"
    ):
        read_plan(tmp_path / "none.plan", fake_tensorrt(FakeGpu(), {}))


@pytest.mark.parametrize(("choice", "extra"), [("pycuda", "pycuda"), ("cuda-core", "cuda")])
def test_a_memory_backend_that_is_not_installed_names_its_extra(
    choice: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trt_plugins.device_memory.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=rf"{choice} is not installed; run: pip install 'skipvit\[{extra}\]'"):
        open_memory(choice)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r"needs cuda-core or pycuda; run: pip install 'skipvit\[cuda\]'"):
        open_memory("auto")


@pytest.mark.parametrize("neighbour", [True, False])
def test_a_neighbour_of_cuda_core_is_not_taken_for_it(
    neighbour: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch for GPUs brings cuda-bindings, which lies in the same package ``cuda``."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "cuda"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    if neighbour:
        (tmp_path / "cuda" / "bindings").mkdir(parents=True)
    with pytest.raises(EngineError, match="cuda-core is not installed; run: pip install"):
        open_memory("cuda-core")
