"""Adds an op by the five steps of trt_plugins/README.md, from a folder outside the package; sixth_op/ has its files.

Each test is one of the checks that the fifth step names.
"""

import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from export import ops
from export.graph import module_to_graph
from export.ops.domain import DOMAIN
from tests.trt_plugins.host_kernels import DTYPES, on_the_host
from tests.trt_plugins.stand_in_quick import QuickPlugins, ShapeExpr, TensorDesc
from trt_plugins import cubins, on_device
from trt_plugins.plugin_op import SCALARS, PluginOp, Scalar
from trt_plugins.quick_plugin import define

ROOT = Path(__file__).resolve().parents[2]
STEPS = {
    1: "temporal_shift.py",
    2: "temporal_shift_node.py",
    3: "temporal_shift.cu",
    4: "temporal_shift_plugin.py",
    5: Path(__file__).name,
}
SHAPE, FOLD = (2, 8, 64), 8


# Modules and torch's ops are of a process: so are these, in whichever order it runs its tests.
@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The four files in a folder that is neither in the package nor in this repository."""
    folder = tmp_path_factory.mktemp("sixth")
    for step in (1, 2, 3, 4):
        shutil.copy(Path(__file__).with_name("sixth_op") / STEPS[step], folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="session")
def torch_op(folder: Path) -> Any:
    return importlib.import_module("temporal_shift")


@pytest.fixture(scope="session")
def node(torch_op: Any) -> Any:
    return importlib.import_module("temporal_shift_node")


@pytest.fixture(scope="session")
def op(folder: Path) -> PluginOp:
    found = importlib.import_module("temporal_shift_plugin").OP
    assert isinstance(found, PluginOp)
    assert found.source == folder / STEPS[3]
    return found


def frames(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_the_readme_has_the_same_steps_and_checks() -> None:
    text = (ROOT / "trt_plugins" / "README.md").read_text(encoding="utf-8")
    steps = re.findall(r"^(\d)\. [^`]*\(`([\w.]+)`\)$", text, re.MULTILINE)
    assert {int(number): file for number, file in steps} == STEPS
    checks = re.findall(r"^# --- \((\w)\) ", Path(__file__).read_text(encoding="utf-8"), re.MULTILINE)
    assert checks == re.findall(r"^   - \((\w)\) ", text, re.MULTILINE) == list("abcdef")


def test_every_file_that_the_readme_names_is_there() -> None:
    text = (ROOT / "trt_plugins" / "README.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`([\w./]+\.(?:cu|cuh|h|py))`", text) if name not in STEPS.values()}
    places = [ROOT, ROOT / "trt_plugins", ROOT / "tests" / "trt_plugins", ROOT / "tests" / "export"]
    assert len(named) > 20
    assert {name for name in named if not any((place / name).is_file() for place in places)} == set()


# --- (a) the torch op does what it says ---


def test_the_torch_op_shifts_and_refuses(torch_op: Any) -> None:
    x = frames(*SHAPE)
    y = torch_op.temporal_shift(x, FOLD)
    assert torch.equal(y[:, :-1, :FOLD], x[:, 1:, :FOLD])
    assert torch.equal(y[:, 1:, FOLD : 2 * FOLD], x[:, :-1, FOLD : 2 * FOLD])
    assert torch.equal(y[:, :, 2 * FOLD :], x[:, :, 2 * FOLD :])
    assert not y[:, -1, :FOLD].any()
    assert not y[:, 0, FOLD : 2 * FOLD].any()
    torch.library.opcheck(torch_op.temporal_shift, (x, FOLD))
    with pytest.raises(ValueError, match="at most half of the channels"):
        torch_op.temporal_shift(x, 33)


# --- (b) ONNX Runtime runs the body ---


def graph_of(torch_op: Any, node: Any, dtype: torch.dtype, opset: int) -> onnx.ModelProto:
    class Shift(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return torch_op.temporal_shift(x, FOLD)

    return module_to_graph(Shift(), {"x": frames(*SHAPE).to(dtype)}, ["y"], opset, node_ops=[*ops.ALL, node])


@pytest.mark.parametrize(("opset", "dtype"), [(18, torch.float16), (20, torch.float32)])
def test_onnx_runtime_runs_the_body(torch_op: Any, node: Any, opset: int, dtype: torch.dtype) -> None:
    graph = graph_of(torch_op, node, dtype, opset)
    assert [(n.domain, n.op_type) for n in graph.graph.node] == [(DOMAIN, node.NAME)]
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for shape in (SHAPE, (1, *SHAPE[1:]), (5, *SHAPE[1:])):
        x = frames(*shape).to(dtype)
        (y,) = session.run(None, {"x": x.numpy()})
        assert np.array_equal(y, torch_op.temporal_shift_reference(x, FOLD).numpy())


# --- (c) the kernel, run on the host, equals the reference ---


@pytest.mark.parametrize("scalar", SCALARS)
def test_the_kernel_equals_the_reference(torch_op: Any, op: PluginOp, scalar: Scalar) -> None:
    @settings(max_examples=25, deadline=None)
    @given(
        shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 70)),
        part=st.floats(0, 1),
    )
    def check(shape: tuple[int, int, int], part: float) -> None:
        x, fold = frames(*shape).to(DTYPES[scalar]), int(part * (shape[2] // 2))
        y = on_the_host(op, scalar, [x], {"fold": fold})
        assert torch.equal(y, torch_op.temporal_shift_reference(x, fold))

    check()


# --- (d) the kernel compiles for every GPU, and takes what the plugin passes ---


@pytest.mark.parametrize("architecture", cubins.ARCHITECTURES)
def test_the_kernel_compiles_for_each_gpu(op: PluginOp, architecture: int) -> None:
    for scalar in SCALARS:
        assert cubins.cubin(op, scalar, architecture).startswith(b"\x7fELF")


@pytest.mark.parametrize("scalar", SCALARS)
def test_the_kernel_takes_what_its_plugin_passes(op: PluginOp, scalar: Scalar) -> None:
    found = cubins.parameters_of(cubins.ptx(op, scalar, 90), op.entry(scalar))
    assert found == op.parameters(op.launch([SHAPE], {"fold": FOLD}))


# --- (e) TensorRT-RTX builds an engine with the plugin, and without it with the body; full TensorRT gets code ---

BUILD = """
import json, sys
from pathlib import Path

from temporal_shift_plugin import OP
from tests.export.rtx_parser import main
from trt_plugins.flavors import open_tensorrt
from trt_plugins.operators import ALL
from trt_plugins.registration import register

if sys.argv[2] == "plugin":
    print(register(open_tensorrt("tensorrt-rtx"), [*ALL, OP]))
print(json.dumps(main(Path(sys.argv[1]), 1)))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX: pip install 'skipvit[trt-rtx]'"
)
@pytest.mark.parametrize("way", ["plugin", "body"])
def test_tensorrt_builds_an_engine_with_it(torch_op: Any, node: Any, folder: Path, way: str) -> None:
    onnx.save(graph_of(torch_op, node, torch.float16, 20), folder / "model.onnx")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    command = [sys.executable, "-c", BUILD, str(folder / "model.onnx"), way]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["errors"] == []
    assert report["outputs"] == [{"name": "y", "shape": [-1, *SHAPE[1:]], "dtype": "HALF"}]
    assert ("PLUGIN_V3" in report["layers"]) == (way == "plugin")
    assert report["plan_bytes"] > 0


def test_full_tensorrt_gets_code_and_launch(op: PluginOp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "current_architecture", lambda: 89)
    quick = QuickPlugins()
    define(quick, op, "cubin")
    compile_ = quick.definitions["skipvit::TemporalShift"].compile
    assert compile_ is not None
    batch, *rest = SHAPE  # the batch is known when the engine runs
    x = TensorDesc((ShapeExpr(batch, constant=False), *map(ShapeExpr, rest)), SimpleNamespace(name="HALF"))
    name, code, launch, numbers = compile_(x, FOLD, (None,), 1)
    expected = op.launch([SHAPE], {"fold": FOLD})
    assert (name, code) == ("temporal_shift_f16", cubins.cubin(op, "f16", 89))
    assert launch.numbers == [*expected.grid, *expected.block]
    assert [number.value for number in numbers] == list(expected.numbers)


# --- (f) on a GPU the kernel equals the reference ---


@pytest.mark.gpu
@pytest.mark.parametrize("scalar", SCALARS)
def test_a_gpu_runs_the_kernel(torch_op: Any, op: PluginOp, scalar: Scalar) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU, and torch built for it")
    x = frames(3, 17, 77).to("cuda", DTYPES[scalar])
    y = torch.full_like(x, torch.nan)
    stream = torch.cuda.current_stream().cuda_stream
    on_device.launch(op, scalar, [tuple(x.shape)], {"fold": 19}, [x.data_ptr(), y.data_ptr()], stream)
    assert torch.equal(y, torch_op.temporal_shift_reference(x, 19))
