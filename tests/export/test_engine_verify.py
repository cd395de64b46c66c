"""The program with a GPU that is a stub: what agrees is verified and what strays leaves no engine."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from export import engine_make, to_trt
from export.engine_job import BuildJob, Built
from export.engine_parity import Outputs
from skipvit.artifacts import read_entry
from tests.export.tiny_entry import of_any_size, tiny_graph, write_entry
from trt_plugins import session as gpu_session
from trt_plugins.engine_plan import EngineError
from trt_plugins.flavors import Tensorrt
from trt_plugins.gpus import Gpu

Change = Callable[[Outputs], Outputs]
Arrays = dict[str, npt.NDArray[Any]]


class StubSession:
    """The GPU, played by ONNX Runtime on the CPU; ``change`` is what goes wrong on it."""

    gpu = "a stub"
    buckets = (1, 2, 4, 6)
    change: Change = staticmethod(lambda outputs: outputs)

    def __init__(self, onnx_path: Path) -> None:
        self._session = onnxruntime.InferenceSession(onnx_path, providers=["CPUExecutionProvider"])
        self.sizes: list[int] = []
        self.closed = False

    def run(self, inputs: Arrays) -> Outputs:
        names = [output.name for output in self._session.get_outputs()]
        self.sizes.append(len(next(iter(inputs.values()))))
        return type(self).change(dict(zip(names, self._session.run(names, inputs), strict=True)))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[StubSession]:
    """A machine with a GPU and full TensorRT, of which nothing but the program is real; the sessions it opens."""
    opened: list[StubSession] = []
    jobs: list[BuildJob] = []

    def build(job: BuildJob, name: str) -> Built:
        jobs.append(job)
        Path(job.plan).write_bytes(b"an engine")
        return Built({"MATRIX_MULTIPLY": 2, "PLUGIN_V3": 1}, ["the gate"])

    def open_session(path: Path, tensorrt: Tensorrt, rows: Any) -> StubSession:
        assert path.read_bytes() == b"an engine"
        assert rows == {"images": (8, 8, 3)}
        opened.append(StubSession(Path(jobs[-1].onnx)))
        return opened[-1]

    monkeypatch.setattr("trt_plugins.gpus.find_gpu", lambda: Gpu("A Stub 9000", (9, 0)))
    monkeypatch.setattr("trt_plugins.flavors.open_tensorrt", lambda choice: Tensorrt(None, "tensorrt", "11.4.0.1"))
    monkeypatch.setattr(engine_make, "build", build)
    monkeypatch.setattr(gpu_session, "open_session", open_session)
    return opened


def strayed(outputs: Outputs) -> Outputs:
    return {**outputs, "logits": outputs["logits"] * 1.01}


def test_an_engine_that_agrees_is_verified_and_found_again(
    gpu: list[StubSession], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_entry(tmp_path / "models")
    assert to_trt.main([str(folder), "--batch", "1,2,6"]) == 0
    assert "Verified: max abs " in capsys.readouterr().out
    (engine,) = read_entry(tmp_path / "models", "tiny").manifest.engines
    assert (engine.file, engine.gpu, engine.compute_capability) == ("model.fp16.sm90.plan", "A Stub 9000", "9.0")
    assert (engine.status, engine.plugins, engine.options["plugin_code"]) == ("verified", {"EcaGate": 1}, "cubin")
    assert engine.parity is not None
    assert engine.parity.engine == "TensorRT 11.4.0.1 on a stub, against ONNX Runtime on the CPU"
    (session,) = gpu
    assert (session.sizes, session.closed) == ([1, 6, 6, 3, *session.buckets], True)
    assert engine.parity.images == 16, "a picture that comes again is no other"
    assert to_trt.main([str(folder), "--batch", "1,2,6"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["cached"] is True
    assert len(gpu) == 1


def test_an_engine_that_strays_leaves_none(
    gpu: list[StubSession], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_entry(tmp_path / "models")
    before = sorted(path.name for path in folder.iterdir())
    assert to_trt.main([str(folder), "--no-parity"]) == 0  # built and not run, so that there is something to withdraw
    assert "Built, not run: --no-parity was given" in capsys.readouterr().out
    assert read_entry(tmp_path / "models", "tiny").manifest.engines[0].status == "built, not run"
    monkeypatch.setattr(StubSession, "change", staticmethod(strayed))
    assert to_trt.main([str(folder)]) == 1
    error = capsys.readouterr().err
    assert "the engine strays from ONNX Runtime on 16 generated pictures" in error
    assert "No engine was written" in error
    assert sorted(path.name for path in folder.iterdir()) == before
    assert read_entry(tmp_path / "models", "tiny").manifest.engines == ()
    onnx.save(tiny_graph("fp32"), tmp_path / "net.onnx")
    assert to_trt.main([str(tmp_path / "net.onnx")]) == 1
    assert not list(tmp_path.glob("net.*plan*"))


def test_what_a_killed_run_left_behind_is_taken_away(gpu: list[StubSession], tmp_path: Path) -> None:
    folder = write_entry(tmp_path / "models")
    old, young = folder / ".building-old", folder / ".building-young"
    for left in (old, young):
        left.mkdir()
        (left / "model.fp16.sm90.plan").write_bytes(b"half a plan")
    os.utime(old, (0, 0))
    assert to_trt.main([str(folder)]) == 0
    assert (old.exists(), young.exists()) == (False, True)


def test_a_miss_leaves_the_engine_that_was_verified_before(
    gpu: list[StubSession], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_entry(tmp_path / "models")
    assert to_trt.main([str(folder)]) == 0
    monkeypatch.setattr(StubSession, "change", staticmethod(strayed))
    assert to_trt.main([str(folder), "--tf32"]) == 1
    (engine,) = read_entry(tmp_path / "models", "tiny").manifest.engines
    assert (engine.status, engine.options.get("tf32")) == ("verified", None)
    monkeypatch.setattr("trt_plugins.gpus.find_gpu", lambda: Gpu("Another 9000", (9, 0)))
    assert to_trt.main([str(folder)]) == 1  # of other silicon: built again, and the verified one stays
    assert len(read_entry(tmp_path / "models", "tiny").manifest.engines) == 1


@pytest.mark.parametrize("bad", StubSession.buckets)
def test_every_size_of_batch_that_a_server_runs_is_compared(
    bad: int, gpu: list[StubSession], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strays(outputs: Outputs) -> Outputs:
        return strayed(outputs) if len(outputs["logits"]) == bad else outputs

    monkeypatch.setattr(StubSession, "change", staticmethod(strays))
    folder = write_entry(tmp_path / "models")
    assert to_trt.main([str(folder), "--batch", "1,2,6"]) == 1
    assert not list(folder.glob("*.plan"))


def test_an_engine_that_does_not_open_is_no_engine(
    gpu: list[StubSession], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise EngineError("the engine was built for another GPU")

    monkeypatch.setattr(gpu_session, "open_session", refuse)
    folder = write_entry(tmp_path / "models")
    assert to_trt.main([str(folder)]) == 1
    assert "was built for another GPU" in capsys.readouterr().err
    assert not list(folder.glob("*.plan"))
    monkeypatch.setattr("trt_plugins.flavors.open_tensorrt", lambda choice: Tensorrt(None, "tensorrt-rtx", "1.7"))
    assert to_trt.main([str(folder), "--flavor", "rtx"]) == 0  # which runs on fewer GPUs than it builds for
    assert "Built, not run: the engine was built for another GPU" in capsys.readouterr().out
    assert read_entry(tmp_path / "models", "tiny").manifest.engines[0].status == "built, not run"


def test_an_engine_that_was_never_run_is_run_where_it_can_be(
    gpu: list[StubSession], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_entry(tmp_path / "models")
    assert to_trt.main([str(folder), "--no-parity"]) == 0
    monkeypatch.setattr(engine_make, "build", None)  # what is there is not built again
    assert to_trt.main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "is what would be built" in out
    assert "Verified: " in out
    (engine,) = read_entry(tmp_path / "models", "tiny").manifest.engines
    assert engine.status == "verified"
    assert engine.parity is not None


def test_an_engine_for_many_gpus_is_verified_on_each(
    gpu: list[StubSession], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record names the GPU, by which a server knows whether the engine was verified on its own."""
    monkeypatch.setattr("trt_plugins.flavors.open_tensorrt", lambda choice: Tensorrt(None, "tensorrt-rtx", "1.7"))
    folder, said = write_entry(tmp_path / "models"), []
    for found in (None, Gpu("GPU A", (8, 6)), None, Gpu("GPU A", (8, 6)), Gpu("GPU B", (8, 9))):
        monkeypatch.setattr("trt_plugins.gpus.find_gpu", lambda found=found: found)
        assert to_trt.main([str(folder), "--flavor", "rtx"]) == 0
        (engine,) = read_entry(tmp_path / "models", "tiny").manifest.engines
        said.append((engine.status, engine.gpu, len(gpu)))
    assert said == [
        ("built, not run", "none", 0),
        *[("verified", "GPU A", 1)] * 3,
        ("verified", "GPU B", 2),
    ]


def test_an_engine_without_its_weights_is_not_run(
    gpu: list[StubSession], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_entry(tmp_path / "models")
    assert to_trt.main([str(folder), "--strip", "--hardware-compatible"]) == 0
    assert "Built, not run: it was stripped of its weights" in capsys.readouterr().out
    (engine,) = read_entry(tmp_path / "models", "tiny").manifest.engines
    assert (engine.file, engine.compute_capability) == ("model.fp16.sm80plus.plan", "8.0+")
    assert engine.options.items() >= {"strip": True, "hardware_compatible": True, "plugin_code": "ptx"}.items()
    assert gpu == []


def test_full_tensorrt_without_a_gpu_says_so(
    gpu: list[StubSession], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trt_plugins.gpus.find_gpu", lambda: None)
    assert to_trt.main([str(write_entry(tmp_path / "models")), "--flavor", "tensorrt"]) == 1
    assert "TensorRT builds for the GPU of its machine, and here is none; --flavor rtx" in capsys.readouterr().err


def test_an_input_of_one_value_is_not_run(
    gpu: list[StubSession], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(of_any_size(scalar=True), tmp_path / "net.onnx")
    assert to_trt.main([str(tmp_path / "net.onnx"), "--shape", "x=1x4:3x8:5x16"]) == 0
    assert "Built, not run: one of its inputs is a single value" in capsys.readouterr().out
    assert gpu == []
