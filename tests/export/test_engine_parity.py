"""Is the engine the file? The figures, against plain arithmetic, and a program whose stubbed GPU strays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from export import engine_make, to_trt
from export.engine_arguments import Profile
from export.engine_inputs import inputs_for
from export.engine_job import BuildJob, Built
from export.engine_parity import MIN_PSNR, RELATIVE, Outputs, Runs, compare
from export.engine_target import open_target
from export.measures import ParityError
from skipvit.artifacts import read_entry
from skipvit.manifest import Manifest, Precision
from tests.export.tiny_entry import tiny_graph, write_entry
from tests.serve.denoisers import write_denoiser
from tests.serve.video_denoisers import write_video_denoiser
from trt_plugins import session as gpu_session
from trt_plugins.engine_plan import EngineError
from trt_plugins.flavors import Tensorrt
from trt_plugins.gpus import Gpu

Change = Callable[[Outputs], Outputs]
Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    write_entry(tmp_path / "for-manifest")
    return read_entry(tmp_path / "for-manifest", "tiny").manifest


def logits_runs(difference: float, real: bool = True) -> Runs:
    """Two batches of logits of at most 10, one of which is off."""
    rng = np.random.default_rng(0)
    reference = [{"logits": np.round(rng.uniform(-9, 9, (n, 4)), 1).astype(np.float32)} for n in (1, 5)]
    reference[0]["logits"][0, 0] = 10.0
    found = [{"logits": outputs["logits"].copy()} for outputs in reference]
    found[1]["logits"][2, 3] += difference
    return Runs(reference, found, "a GPU", 6, "pictures", real)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_logits_are_judged_by_their_largest(precision: Precision, manifest: Manifest) -> None:
    near, far = 0.9 * RELATIVE[precision] * 10, 1.1 * RELATIVE[precision] * 10
    parity = compare("x.plan", precision, manifest, logits_runs(near, real=False), tf32=False)
    assert parity.max_abs == pytest.approx(near, rel=1e-2)
    assert parity.max_relative == pytest.approx(near / 10, rel=1e-2)
    assert parity.mean_abs == pytest.approx(near / 24, rel=1e-2)
    assert (parity.images, parity.engine) == (6, "a GPU, against ONNX Runtime on the CPU")
    with pytest.raises(ParityError, match="the engine strays from ONNX Runtime on pictures: max_abs"):
        compare("x.plan", precision, manifest, logits_runs(far, real=False), tf32=False)


def test_tf32_loosens_float32_alone(manifest: Manifest) -> None:
    difference = 0.5 * RELATIVE["fp16"] * 10
    with pytest.raises(ParityError):
        compare("x.plan", "fp32", manifest, logits_runs(difference))
    assert compare("x.plan", "fp32", manifest, logits_runs(difference), tf32=True).tolerance.startswith(
        "relative <= 0.005"
    )


def test_a_class_that_changes_is_a_miss_on_real_pictures(manifest: Manifest) -> None:
    runs = [Runs([{"logits": np.array([[1.0, 1.001]])}], [{"logits": np.array([[1.0005, 1.0]])}], "", 1, "", real)
            for real in (False, True)]  # fmt: skip
    assert compare("x.plan", "fp16", manifest, runs[0]).top1_agreement == 0
    with pytest.raises(ParityError, match=r"needed: relative <= 0\.005, top-1 agreement >= 100%"):
        compare("x.plan", "fp16", manifest, runs[1])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_pictures_are_judged_in_decibels(precision: Precision, manifest: Manifest) -> None:
    denoiser = manifest.model_copy(update={"task": "denoising"})
    expected = np.full((1, 4, 4, 3), 100.0, np.float32)
    for decibels, passes in ((MIN_PSNR[precision] + 1, True), (MIN_PSNR[precision] - 1, False)):
        off = 255 * 10 ** (-decibels / 20)
        runs = Runs([{"logits": expected}], [{"logits": expected + np.float32(off)}], "", 1, "", real=True)
        if passes:
            parity = compare("x.plan", precision, denoiser, runs)
            assert parity.psnr_db == pytest.approx(decibels, abs=0.3)
            assert (parity.max_levels, parity.top1_agreement) == (0, None)
        else:
            with pytest.raises(ParityError, match="PSNR >="):
                compare("x.plan", precision, denoiser, runs)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.full((1, 4), np.nan), "values that are not finite"),
        (np.zeros((2, 4)), r"gives logits \(2, 4\), ONNX Runtime \(1, 4\)"),
        (None, "gives logits nothing"),
        (np.zeros((1, 4)), "ONNX Runtime gives logits with values that are not finite"),
    ],
)
def test_what_is_no_answer_is_a_miss(found: Any, message: str, manifest: Manifest) -> None:
    outputs = {} if found is None else {"logits": found}
    reference = np.full((1, 4), np.inf) if message.startswith("ONNX Runtime") else np.zeros((1, 4))
    with pytest.raises(ParityError, match=message):
        compare("x.plan", "fp16", manifest, Runs([{"logits": reference}], [outputs], "", 1, "", real=True))


def test_of_any_other_graph_every_output_counts() -> None:
    reference = {"a": np.array([1.0, 2.0]), "b": np.array([1000.0])}
    runs = Runs([reference], [{**reference, "a": np.array([1.0, 2.1])}], "", 1, "", real=False)
    with pytest.raises(ParityError, match=r"max_relative 0\.05"):
        compare("x.plan", "fp16", None, runs)


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


def of_any_size(scalar: bool) -> onnx.ModelProto:
    """x times a factor, which is an input of one value or a constant."""
    x, y = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "width"])] for name in "xy")
    factor = helper.make_tensor_value_info("factor", TensorProto.FLOAT, [])
    value = [] if scalar else [helper.make_tensor("factor", TensorProto.FLOAT, [], [2.0])]
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    graph = helper.make_graph(nodes, "scaled", [*x, *([factor] if scalar else [])], y, value)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_a_graph_of_any_size_is_compared_on_rows_of_the_usual_one(tmp_path: Path) -> None:
    onnx.save(of_any_size(scalar=False), tmp_path / "net.onnx")
    target = open_target(tmp_path / "net.onnx", None, None, None)
    found = inputs_for(target, {"x": Profile((1, 4), (3, 8), (5, 16))}, None)
    assert [batch["x"].shape for batch in found.batches] == [(1, 8), (3, 8)]
    assert (found.images, found.source, found.real) == (4, "4 random inputs", False)


def test_an_input_of_one_value_is_not_run(
    gpu: list[StubSession], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(of_any_size(scalar=True), tmp_path / "net.onnx")
    assert to_trt.main([str(tmp_path / "net.onnx"), "--shape", "x=1x4:3x8:5x16"]) == 0
    assert "Built, not run: one of its inputs is a single value" in capsys.readouterr().out
    assert gpu == []


@pytest.mark.parametrize("write", [write_denoiser, write_video_denoiser])
def test_denoisers_are_compared_on_tiles_of_their_profile(write: Callable[[Path], Path], tmp_path: Path) -> None:
    entry = read_entry(tmp_path, write(tmp_path).parent.name)
    target = open_target(entry.folder, None, None, None)
    tile, axes = entry.tiling.tile, len(entry.manifest.inputs[0].shape)
    row = (*((entry.tiling.frames,) if axes == 5 else ()), tile, tile, 4 if axes == 5 else 3)
    (name,) = target.graph.inputs
    found = inputs_for(target, {name: Profile((2, *row), (2, *row), (4, *row))}, None)
    assert [batch[name].shape for batch in found.batches] == [(2, *row), (3, *row)]
    assert all(batch[name].dtype == np.uint8 and len(np.unique(batch[name])) > 50 for batch in found.batches)
    assert found.real is bool(entry.manifest.samples)


def test_other_graphs_are_compared_on_random_inputs_of_one_size(tmp_path: Path) -> None:
    """A session runs one height and width, whatever the profile takes."""
    onnx.save(tiny_graph("fp32"), tmp_path / "net.onnx")
    target = open_target(tmp_path / "net.onnx", None, None, None)
    shapes = {"images": Profile((1, 8, 8, 3), (4, 16, 24, 3), (8, 32, 32, 3))}
    found = inputs_for(target, shapes, None)
    assert [batch["images"].shape for batch in found.batches] == [(1, 16, 24, 3), (4, 16, 24, 3)]
    assert (found.images, found.source, found.real) == (5, "5 random inputs", False)
