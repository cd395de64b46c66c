"""trt_plugins.on_device over NVIDIA's real bindings, with a driver of our own underneath that writes down its calls."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trt_plugins import cubins
from trt_plugins.operators.eca_gate import OP

pytest.importorskip("cuda.bindings.driver", reason="cuda-core is not installed")
HERE = Path(__file__).resolve().parent
BEGIN = """
import sys
from trt_plugins.on_device import DeviceError, launch, current_architecture
from trt_plugins.operators.eca_gate import OP
def go(tokens=5, channels=136):
    launch(OP, "f16", [(2, tokens, channels), (1, 1, 3)], {}, [0xFFFFFFFF11111111, 2, 3], 0x7FFF12345678)
"""
Run = Callable[..., tuple[list[str], str]]
LAUNCHES = {tokens: OP.launch([(2, tokens, 136), (1, 1, 3)], {}) for tokens in (5, 7)}
PARAMETERS = "".join(kind[0] for kind in OP.parameters(LAUNCHES[5]))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the imaginary libcuda.so.1."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(folder / "libcuda.so.1")]
    subprocess.run([*command, str(HERE / "imaginary_driver.c")], check=True)
    return folder


@pytest.fixture
def run(driver: Path, tmp_path: Path) -> Run:
    """Runs lines of Python on the imaginary GPU; gives the driver's calls, and what was printed."""
    cubins.cubin(OP, "f16", 90)  # NVRTC looks at the driver, and must not meet this one

    def run(script: str, **environment: str) -> tuple[list[str], str]:
        calls = tmp_path / "calls"
        calls.touch()
        own = {"LD_LIBRARY_PATH": str(driver), "CALLS": str(calls), "PARAMETERS": PARAMETERS, **environment}
        command = [sys.executable, "-c", BEGIN + script]
        done = subprocess.run(
            command, cwd=HERE.parents[1], env={**os.environ, **own}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return calls.read_text().splitlines(), done.stdout

    return run


def test_a_kernel_is_loaded_once_and_launched_with_its_arguments(run: Run) -> None:
    calls, printed = run("go(); go(); go(tokens=7); print(current_architecture())")
    assert printed.split() == ["90"]
    assert calls[:4] == ["capture mode relaxed", "load machine code", "function eca_gate_f16", "capture mode restored"]
    for call, tokens in zip(calls[4:], (5, 5, 7), strict=True):
        grid, block, numbers = (
            " ".join(map(str, part))
            for part in (LAUNCHES[tokens].grid, LAUNCHES[tokens].block, LAUNCHES[tokens].numbers)
        )
        start = f"launch 0x30 grid {grid} block {block} shared 0 stream 0x7fff12345678 extra (nil)"
        assert call == f"{start}: ffffffff11111111 2 {numbers} 3"


def test_an_output_without_elements_needs_no_launch(run: Run) -> None:
    calls, _ = run("launch(OP, 'f16', [(0, 5, 8), (1, 1, 3)], {}, [0, 0, 0], 0)")
    assert calls == []


def test_what_cuda_refuses_is_told_with_kernel_shapes_and_its_words(run: Run) -> None:
    _, printed = run("try: go()\nexcept DeviceError as error: print(error)", FAIL="1")
    grid, block = LAUNCHES[5].grid, LAUNCHES[5].block
    assert f"eca_gate_f16 for (2, 5, 136), (1, 1, 3): grid {grid}, block {block}" in printed
    assert "CUDA_ERROR_INVALID_VALUE: invalid argument" in printed


def test_a_thread_without_a_context_is_told_what_to_do(run: Run) -> None:
    calls, printed = run("try: go()\nexcept DeviceError as error: print(error)", NO_CONTEXT="1")
    assert "no CUDA context" in printed
    assert "create a tensor or a stream" in printed
    assert calls == []
