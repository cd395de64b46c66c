"""The host that runs kernels: what it gives them, and what it does not let pass."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.trt_plugins.host_probe import SOURCE, WAYS, probe
from trt_plugins import on_host
from trt_plugins.plugin_op import SCALARS, Scalar

ROOT = Path(__file__).parents[2]
X = np.arange(1, 9, dtype=np.float32)


def run(folder: Path, way: str, threads: int = 32) -> on_host.Array:
    return on_host.run(probe(folder), "f32", [X], {"threads": threads, "way": WAYS.index(way)})


def program(folder: Path, threads: int, way: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.trt_plugins.host_probe", str(folder), str(threads), way]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where these tests' kernels are written and built, not among those that stay."""
    made = tmp_path_factory.mktemp("kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(made))
        yield made


def test_a_kernel_that_keeps_to_its_output(folder: Path) -> None:
    assert np.array_equal(run(folder, "copy", threads=1024), X)


@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        ("write before", r"probe wrote outside its output \(8,\)"),
        ("write behind", r"probe wrote outside its output \(8,\)"),
        ("leave some", "probe left 1 of the 8 elements"),
        ("write an input", "probe wrote into its input x"),
    ],
)
def test_a_kernel_that_does_not_is_an_error(folder: Path, way: str, sentence: str) -> None:
    with pytest.raises(on_host.HostError, match=sentence):
        run(folder, way)


@pytest.mark.parametrize(
    ("way", "threads", "sentence"),
    [
        ("leave before a barrier", 64, "some threads left while others wait at __syncthreads"),
        ("meet at two barriers", 64, "threads of one warp are at different barriers"),
        ("ask a lane that is not there", 16, "a lane asks one that its warp does not have"),
        ("copy", 1056, "a block has 1 to 1024 threads"),
    ],
)
def test_what_a_gpu_leaves_undefined_stops_with_a_sentence(folder: Path, way: str, threads: int, sentence: str) -> None:
    stopped = program(folder, threads, way, TMPDIR=str(folder))
    _, error = stopped.communicate(timeout=120)
    assert stopped.returncode != 0
    assert f"kernel on the host: {sentence}" in error


@pytest.mark.parametrize("way", ["read behind", "read far before"])
def test_reading_what_is_not_an_inputs_ends_the_program(folder: Path, way: str) -> None:
    stopped = program(folder, 32, way, TMPDIR=str(folder))
    stopped.communicate(timeout=120)
    assert stopped.returncode == -signal.SIGSEGV


def test_a_missing_barrier_shows(folder: Path) -> None:
    found = [run(folder, "read and write without a barrier", threads=256) for _ in range(8)]
    assert not all((y == 1).all() for y in found)
    assert all((run(folder, "read and write around a barrier", threads=256) == 1).all() for _ in range(8))


@pytest.mark.skipif(sys.platform != "linux", reason="only its linker tells where shared memory lies")
def test_shared_memory_is_not_zero(folder: Path) -> None:
    run(folder, "read and write around a barrier")
    assert np.isnan(run(folder, "read shared memory that nobody wrote")).all()


def test_asynchronous_copies_arrive_when_waited_for(folder: Path) -> None:
    assert np.isnan(run(folder, "read a copy too early")).all()
    assert np.array_equal(run(folder, "copy asynchronously"), [1, 0] * 4)  # odd threads copy zeros


SHUFFLES = """#include "device.cuh"

extern "C" __global__ void ENTRY(probe)(const Scalar* x, int count, int way, Scalar* y) {
  const int i = threadIdx.x;
  const float mine = to_float(x[i]);
  const float given[] = {__shfl_sync(~0u, mine, 5), __shfl_xor_sync(~0u, mine, 12), __shfl_down_sync(~0u, mine, 7)};
  y[i] = as_scalar<Scalar>(given[way]);
}
"""


def test_lanes_see_their_own_warp(folder: Path) -> None:
    op = probe(folder, SHUFFLES)
    x = np.arange(96, dtype=np.float16)
    thread = np.arange(96)
    warp, lane = thread // 32 * 32, thread % 32
    for way, expected in enumerate([warp + 5, warp + (lane ^ 12), np.where(lane + 7 < 32, thread + 7, thread)]):
        assert np.array_equal(on_host.run(op, "f16", [x], {"threads": 96, "way": way}), expected)


def test_source_that_does_not_compile_says_where(folder: Path) -> None:
    op = probe(folder, SOURCE.replace("y[i] = x[i];", "y[i] = z[i];"))
    with pytest.raises(on_host.HostError, match=r"(?s)probe\.cu does not compile.*probe\.cu:6:"):
        on_host.build(op, "f32", {})


def test_no_compiler_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(on_host.HostError, match=r"there is no C\+\+ compiler; install one .*apt install g\+\+"):
        on_host.build(probe(tmp_path), "f32", {})
    monkeypatch.setenv("CXX", "cxx-of-mine")
    with pytest.raises(on_host.HostError, match="CXX names cxx-of-mine, which is not there"):
        on_host.build(probe(tmp_path), "f32", {})


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_each_compiler_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    monkeypatch.setenv("CXX", compiler)
    assert np.array_equal(run(tmp_path, "copy asynchronously"), [1, 0] * 4)


@pytest.mark.parametrize("what", ["open to others", "a link", "another user's"])
def test_a_folder_that_is_not_ours_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    user = os.getuid() + (what == "another user's")
    monkeypatch.setattr(os, "getuid", lambda: user)
    folder = tmp_path / f"skipvit-host-kernels-{user}"
    if what == "a link":
        folder.symlink_to(tmp_path)
    else:
        folder.mkdir(mode=0o700)
    if what == "open to others":
        folder.chmod(0o777)
    with pytest.raises(on_host.HostError, match="is another user's, or open to others"):
        on_host.build(probe(tmp_path), "f32", {})


def test_processes_may_build_the_same_at_once(tmp_path: Path) -> None:
    running = [program(tmp_path, 32, "copy", TMPDIR=str(tmp_path)) for _ in range(2)]
    for process in running:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    (built,) = tmp_path.glob("skipvit-host-kernels-*")
    assert len(list(built.iterdir())) == 1


@pytest.mark.parametrize("scalar", SCALARS)
def test_two_builds_of_one_name_do_not_mix(folder: Path, scalar: Scalar) -> None:
    x = X if scalar == "f32" else X.astype(np.float16) if scalar == "f16" else X.view(np.uint16)[1::2].copy()
    assert np.array_equal(on_host.run(probe(folder), scalar, [x], {"threads": 32, "way": 0}), x)
