"""The process that builds, and the one that waits for it: cancelled, broken down, and told of progress."""

import dataclasses
import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import engine_build
from export.engine_build import BuildError, build
from export.engine_graph import read_graph
from export.engine_job import BuildJob
from export.engine_progress import Progress

PROGRAM = Path(engine_build.__file__).with_name("to_trt.py")
rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX: pip install 'skipvit[trt-rtx]'"
)


def chain(layers: int) -> onnx.ModelProto:
    """As many products as asked, each followed by a softmax, which keeps TensorRT from joining them."""
    weight = numpy_helper.from_array(np.eye(16, dtype=np.float32), "weight")
    nodes = []
    for i in range(layers):
        nodes.append(helper.make_node("MatMul", [f"x{i}", "weight"], [f"y{i}"]))
        nodes.append(helper.make_node("Softmax", [f"y{i}"], [f"x{i + 1}"]))
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 16])] for name in ("x0", f"x{layers}")]
    graph = helper.make_graph(nodes, "chain", *ends, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def job_for(folder: Path, layers: int) -> BuildJob:
    path = folder / "chain.onnx"
    onnx.save(chain(layers), path)
    return BuildJob(
        onnx=str(path),
        sha256=read_graph(path).sha256,
        plan=str(folder / "chain.plan"),
        flavor="tensorrt-rtx",
        profiles={"x0": ((1, 16), (2, 16), (4, 16))},
    )


@rtx
def test_the_monitor_ends_a_build_when_nobody_waits_for_it(tmp_path: Path) -> None:
    job = job_for(tmp_path, layers=400)
    command = [sys.executable, str(engine_build._WORKER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(dataclasses.asdict(job)) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            if "stepped" in line:
                break
        process.stdin.close()
        last = json.loads(process.stdout.readlines()[-1])
    assert last["refused"] == "cancelled"
    assert not Path(job.plan).exists()


@rtx
def test_an_interrupt_in_the_middle_of_a_build_leaves_nothing(tmp_path: Path) -> None:
    job = job_for(tmp_path, layers=400)
    command = [sys.executable, str(PROGRAM), job.onnx, "--flavor", "rtx"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        shown = ""
        while "%|" not in shown:  # the bar, which begins with the build
            assert process.poll() is None, shown
            shown += process.stderr.read(1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; nothing was written" in error
    assert [path.name for path in tmp_path.iterdir()] == ["chain.onnx"]


@rtx
def test_a_file_that_changes_after_it_was_checked_is_not_built(tmp_path: Path) -> None:
    job = job_for(tmp_path, layers=1)
    onnx.save(chain(2), job.onnx)
    with pytest.raises(BuildError, match="the file changed while it was read"):
        build(job, "chain")


@rtx
def test_the_library_s_log_is_shown_on_request(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = job_for(tmp_path, layers=1)
    built = build(dataclasses.replace(job, verbose=True), "chain")
    assert (built.layers["MATRIX_MULTIPLY"], built.plugins) == (1, [])
    assert "[INFO]" in capfd.readouterr().err
    build(job, "chain")
    assert "[INFO]" not in capfd.readouterr().err


DEATHS = {
    "import os; os.abort()": r"TensorRT-RTX broke down over .*chain\.onnx \(signal SIGABRT, at 'Starting TensorRT'",
    "import sys; print('out of luck', file=sys.stderr); sys.exit(3)": r"\(exit status 3, at .*saying: out of luck\)",
    "import os; print('{\"phase\": ', end='', flush=True); os.abort()": r"\(signal SIGABRT, at 'Starting TensorRT'",
    "import sys; sys.stdin.close()": r"\(exit status 0, at 'Starting TensorRT'\)",
}


@pytest.mark.parametrize("program", DEATHS)
def test_whatever_ends_the_process_is_a_sentence(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "worker.py").write_text(program)
    monkeypatch.setattr(engine_build, "_WORKER", tmp_path / "worker.py")
    with pytest.raises(BuildError, match=DEATHS[program]):
        build(job_for(tmp_path, layers=1), "chain")


def test_a_process_that_will_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "worker.py").write_text(
        "import json, time\n"
        "print(json.dumps({'refused': 'asked', 'text': 'no', 'op': ''}), flush=True)\n"
        "time.sleep(600)"
    )
    monkeypatch.setattr(engine_build, "_WORKER", tmp_path / "worker.py")
    monkeypatch.setattr(engine_build, "_CANCEL_S", 0.1)
    with pytest.raises(BuildError, match="no"):
        build(job_for(tmp_path, layers=1), "chain")


def test_phases_within_phases_give_one_fraction(capsys: pytest.CaptureFixture[str]) -> None:
    steps: list[tuple[dict[str, Any], float, str]] = [
        ({"phase": "Reading", "steps": 0}, 0.0, "Reading"),
        ({"finished": "Reading"}, 0.0, "Reading"),
        ({"phase": "Building", "steps": 4}, 0.0, "Building"),
        ({"stepped": "Building", "step": 0}, 0.25, "Building"),
        ({"phase": "Timing", "steps": 2}, 0.25, "Timing"),
        ({"stepped": "Timing", "step": 0}, 0.375, "Timing"),
        ({"phase": "Once", "steps": 1}, 0.375, "Once"),
        ({"stepped": "Once", "step": 0}, 0.5, "Once"),
        ({"finished": "Timing"}, 0.5, "Building"),
        ({"finished": "Unheard of"}, 0.5, "Building"),
        ({"stepped": "Unheard of", "step": 7}, 0.5, "Building"),
        ({"stepped": "Building", "step": 3}, 1.0, "Building"),
    ]
    with Progress("model.plan") as progress:
        for message, fraction, doing in steps:
            progress.told(message)
            assert (progress.fraction, progress.doing) == (fraction, doing), message
    assert "model.plan: " in capsys.readouterr().err
