"""The program, with real builds by TensorRT-RTX, which needs no GPU: what it writes, finds again, and refuses."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import pytest

from export.to_trt import main
from serve.models.repository import Repository
from serve.settings import Settings
from skipvit.artifacts import read_entry
from skipvit.manifest import Engine
from tests.export.tiny_entry import tiny_graph, write_entry

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "export" / "to_trt.py"
rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX: pip install 'skipvit[trt-rtx]'"
)
PLAN = "model.fp16.rtx.plan"


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tests everywhere: a machine with a GPU would run the engines."""
    monkeypatch.setattr("trt_plugins.gpus.find_gpu", lambda: None)


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    return write_entry(tmp_path / "models").parent


def reported(captured: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(captured.splitlines()[-1])
    return found


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@rtx
def test_an_entry_gets_an_engine_and_a_second_run_finds_it(entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = names_in(entry / "1")
    assert main([str(entry), "--flavor", "rtx"]) == 0
    out = capsys.readouterr().out
    assert "plugin_v3                    1\n" in out
    assert "EcaGate        1        1       0\n" in out
    assert "Built, not run: no NVIDIA GPU was found here" in out
    assert "erified" not in out
    assert names_in(entry / "1") == before | {PLAN}
    (engine,) = read_entry(entry.parent, "tiny").manifest.engines
    assert (engine.made_from, engine.precision, engine.status) == ("model.fp16.onnx", "fp16", "built, not run")
    assert (engine.plugins, engine.bodies, engine.parity) == ({"EcaGate": 1}, {}, None)
    assert engine.shapes == {"images": ((1, 8, 8, 3), (8, 8, 8, 3), (64, 8, 8, 3))}
    assert (engine.flavor, engine.gpu, engine.compute_capability) == ("tensorrt-rtx", "none", "7.5+")
    assert reported(out)["cached"] is False
    written = (entry / "1" / PLAN).stat().st_mtime_ns
    assert main([str(entry / "1"), "--flavor", "rtx"]) == 0
    again = capsys.readouterr().out
    assert "is what would be built; --force builds it again" in again
    assert reported(again) == {**reported(out), "cached": True}
    assert (entry / "1" / PLAN).stat().st_mtime_ns == written


@rtx
def test_whoever_reads_the_report_may_stop_reading(entry: Path) -> None:
    command = [sys.executable, str(PROGRAM), str(entry), "--flavor", "rtx", "--no-parity"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        error = process.stderr.read()
    assert process.returncode == 0, error
    assert "Broken pipe" not in error
    assert (entry / "1" / PLAN).exists()


@rtx
def test_other_options_build_another_engine_in_its_place(entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs: list[list[str]] = [[], ["--no-plugins"], ["--no-plugins", "--batch", "2,4,6"], ["--precision", "fp32"]]
    for options in runs:
        assert main([str(entry), "--flavor", "rtx", *options]) == 0
        assert reported(capsys.readouterr().out)["cached"] is False, options
    engines = {engine.file: engine for engine in read_entry(entry.parent, "tiny").manifest.engines}
    assert set(engines) == {PLAN, "model.fp32.rtx.plan"}
    assert (engines[PLAN].plugins, engines[PLAN].bodies) == ({}, {"EcaGate": 1})
    assert [shape[0] for shape in engines[PLAN].shapes["images"]] == [2, 4, 6]
    assert engines["model.fp32.rtx.plan"].plugins == {"EcaGate": 1}


@rtx
@pytest.mark.parametrize("damage", [Path.unlink, lambda plan: plan.write_bytes(b"cut")], ids=["gone", "changed"])
def test_a_damaged_engine_is_built_again(
    damage: Callable[[Path], object], entry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ([], ["--precision", "fp32"]):
        assert main([str(entry), "--flavor", "rtx", *options]) == 0
    for file in (PLAN, "model.fp32.rtx.plan"):
        damage(entry / "1" / file)
    assert main([str(entry), "--flavor", "rtx"]) == 0
    assert reported(capsys.readouterr().out)["cached"] is False
    assert [engine.file for engine in read_entry(entry.parent, "tiny").manifest.engines] == [PLAN]


@rtx
def test_the_server_reads_an_entry_with_an_engine(entry: Path) -> None:
    assert main([str(entry), "--flavor", "rtx", "--no-parity"]) == 0
    repository = Repository.open(entry.parent, Settings())
    (model,) = repository.models.values()
    assert [engine.file for engine in model.entry.manifest.engines] == [PLAN]
    repository.close()


@rtx
def test_a_plain_file_gets_an_engine_and_its_record_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(tiny_graph("fp32"), tmp_path / "net.onnx")
    assert main([str(tmp_path / "net.onnx"), "--flavor", "rtx"]) == 0
    assert names_in(tmp_path) == {"net.onnx", "net.fp32.rtx.plan", "net.fp32.rtx.plan.json"}
    record = json.loads((tmp_path / "net.fp32.rtx.plan.json").read_text())
    digest = record.pop("sha256")
    assert len(digest) == 64
    assert Engine.model_validate_json(json.dumps(record)).plugins == {"EcaGate": 1}
    capsys.readouterr()
    assert main([str(tmp_path / "net.onnx"), "--flavor", "rtx"]) == 0
    assert reported(capsys.readouterr().out)["cached"] is True
    (tmp_path / "net.fp32.rtx.plan").write_bytes(b"damaged")
    out = tmp_path / "elsewhere" / "x.plan"
    out.parent.mkdir()
    for options in ([], ["--out", str(out)]):
        assert main([str(tmp_path / "net.onnx"), "--flavor", "rtx", *options]) == 0
        assert reported(capsys.readouterr().out)["cached"] is False
    assert names_in(out.parent) == {"x.plan", "x.plan.json"}


def without_body(**plugin: str) -> onnx.ModelProto:
    return tiny_graph(body=False, **plugin)


def of_another_domain() -> onnx.ModelProto:
    model = tiny_graph(body=False, plugin_namespace="elsewhere")
    for node in model.graph.node:
        node.domain = node.domain and "elsewhere"
    model.opset_import[1].domain = "elsewhere"
    return model


REFUSED: dict[str, tuple[onnx.ModelProto, list[str], str]] = {
    "no creator": (without_body(), ["--no-plugins"], "has no body of EcaGate, which --no-plugins needs"),
    "other version": (without_body(plugin_version="2"), [], "has a node EcaGate, which is neither an op of ONNX nor"),
    "other namespace": (of_another_domain(), [], "(namespace 'skipvit', version 1), and no body of it; export"),
    "wrong opset": (tiny_graph(version=2), [], "has nodes of skipvit version 2, and the plugins here are of version 1"),
    "hardware": (tiny_graph(), ["--hardware-compatible"], "has no --hardware-compatible; leave it out"),
    "timing cache": (tiny_graph(), ["--timing-cache", "x.cache"], "has no --timing-cache; leave it out"),
    "plugin code": (tiny_graph(), ["--plugin-code", "ptx"], "has no --plugin-code: its engines call kernels by name"),
    "version": (tiny_graph(), ["--version-compatible"], "leave --version-compatible out"),
}


@rtx
@pytest.mark.parametrize("case", REFUSED)
def test_what_tensorrt_refuses_is_a_sentence(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, options, message = REFUSED[case]
    onnx.save(model, tmp_path / "net.onnx")
    assert main([str(tmp_path / "net.onnx"), "--flavor", "rtx", *options]) == 1
    error = capsys.readouterr().err
    assert message in error.replace("\r", "\n")
    assert "Traceback" not in error
    assert names_in(tmp_path) == {"net.onnx"}


@rtx
def test_a_body_serves_where_no_plugin_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(tiny_graph(plugin_namespace="elsewhere"), tmp_path / "net.onnx")
    assert main([str(tmp_path / "net.onnx"), "--flavor", "rtx"]) == 0
    assert "EcaGate        1        0       1\n" in capsys.readouterr().out


@rtx
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(stop: signal.Signals, entry: Path) -> None:
    before = {path: path.read_bytes() for path in entry.rglob("*") if path.is_file()}
    # A build of a moment may be over before it was seen, or before the signal came: then it is made again.
    for _ in range(20):
        child, code, error = interrupted(entry, stop)
        if code != 0:
            break
        for path in entry.rglob("*"):
            if path.is_file() and path not in before:
                path.unlink()
        for path, data in before.items():
            path.write_bytes(data)
    assert code == 130
    assert "interrupted; nothing was written" in error
    assert "Traceback" not in error
    assert {path: path.read_bytes() for path in entry.rglob("*") if path.is_file()} == before
    deadline = time.monotonic() + 60
    while alive := [pid for pid in child if os.path.exists(f"/proc/{pid}/exe")]:
        assert time.monotonic() < deadline, f"{alive} still build"
        time.sleep(0.01)


def interrupted(entry: Path, stop: signal.Signals) -> tuple[list[str], int, str]:
    """A build that is sent a signal as soon as it is seen to build: its children then, exit code and standard error."""
    command = [sys.executable, str(PROGRAM), str(entry), "--flavor", "rtx"]
    child: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None and not (list((entry / "1").glob(".building-*")) and child):
            with suppress(OSError):  # it ended meanwhile, or there is no such file on this system
                child = children.read_text().split()
            if not children.exists():
                child = child or ["0"]
            time.sleep(0.002)
        process.send_signal(stop)
        _, error = process.communicate(timeout=60)
    return child, process.returncode, error


BLOCKED = """
import sys
blocked = sys.argv.pop(1).split(",")
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from export.to_trt import main
sys.exit(main(sys.argv[1:]))
"""


def without(packages: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program, where packages are not installed."""
    command = [sys.executable, "-c", BLOCKED, packages, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@rtx
def test_it_runs_on_a_machine_without_pytorch(entry: Path) -> None:
    done = without("torch,torchvision,timm,onnxscript,safetensors,scipy", str(entry), "--flavor", "rtx", "--no-parity")
    assert done.returncode == 0, done.stderr
    assert (entry / "1" / PLAN).exists()


def test_an_interrupt_before_the_work_begins_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a second goes by with imports."""

    class Interrupt:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "export.engine_build":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "export.engine_build", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupt(), *sys.meta_path])
    assert main(["models/x"]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err


def test_help_needs_nothing_and_a_run_says_what_it_needs() -> None:
    nothing = "onnx,onnxruntime,tensorrt,tensorrt_rtx,torch,cuda,tqdm"
    shown = without(nothing, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "--flavor {auto,tensorrt,rtx}" in shown.stdout
    missing = without(nothing, "models/x")
    assert missing.returncode == 1
    assert "is not installed; run: pip install 'skipvit[trt-rtx]'" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_bad_input_gets_a_plain_message(entry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes, net = tmp_path / "notes.txt", tmp_path / "net.onnx"
    onnx.save(tiny_graph("fp32"), net)
    notes.write_text("no graph")
    cases = [
        ([str(tmp_path / "gone")], "is not there; give an entry such as models/digits_skipat, or an ONNX file"),
        ([str(notes)], "is no ONNX file, or is cut short"),
        ([str(entry.parent)], f"is a folder of models; give one of them: {entry}"),
        ([str(entry), "--version", "3"], "has no version 3, only [1]"),
        ([str(entry), "--precision", "int8"], "has no int8 model, only fp32, fp16"),
        ([str(entry), "--out", "x.plan"], "is an entry, beside whose files its engines lie"),
        (
            [str(notes), "--out", str(tmp_path / "models" / ".." / "notes.txt")],
            f"would overwrite {notes}; give another",
        ),
        ([str(notes), "--out", str(tmp_path)], "is no file in a folder that is there; give one such as notes.plan"),
        ([str(notes), "--out", str(tmp_path / "gone" / "x.plan")], "is no file in a folder that is there"),
        ([str(notes), "--version", "1"], "is a single file, to which --version means nothing"),
        ([str(entry), "--shape", "x=1x8x8x3"], "has no input 'x', only images"),
        ([str(entry), "--images", str(tmp_path / "gone")], "gone cannot be read (No such file or directory)"),
        ([str(net), "--images", str(tmp_path)], "net.onnx is compared on random inputs"),
        ([str(entry), "--shape", "images=1x9x8x3"], "input images is ?x8x8x3, which 1x9x8x3 does not fit"),
    ]
    before = names_in(entry / "1")
    for arguments, message in cases:
        assert main(arguments) == 1, arguments
        error = capsys.readouterr().err
        assert message in error, arguments
        assert "Traceback" not in error
    (entry / "1" / "model.fp16.onnx").write_bytes(b"changed")
    assert main([str(entry)]) == 1
    assert "the file was changed or cut short" in capsys.readouterr().err
    assert names_in(entry / "1") == before


@pytest.mark.parametrize(
    "options",
    [["--batch", "0"], ["--opt-level", "6"], ["--workspace", "0"], ["--workspace", "9" * 20], ["--shape", "x"]],
)
def test_bad_options_are_usage_errors(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["x", *options])
    assert "needs" in capsys.readouterr().err
