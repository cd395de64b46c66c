"""The generated half of the C++ plugin library, built by the host's compiler, against the records it comes from."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trt_plugins.test_compilation import USUAL
from tests.trt_plugins.test_symbols import ARITHMETIC
from trt_plugins import cpp_sources
from trt_plugins.on_host import compiler_of_the_host
from trt_plugins.operators import ALL
from trt_plugins.plugin_op import KERNELS, SCALARS, Launch, PluginOp
from trt_plugins.symbols import Symbol, expression_of

CPP = Path(cpp_sources.__file__).with_name("cpp")
Geometry = Callable[[PluginOp, list[tuple[int, ...]], dict[str, int]], tuple[tuple[int, ...], Launch] | None]
RANK, INPUTS = 8, 4  # room that dims.h gives
WRAPPER = """
#include "geometry.h"
extern "C" int geometry(int op, const int* ranks, const int64_t* dims, const int64_t* attributes, int64_t* out) {
  Shape<int64_t> in[MAX_INPUTS], shape;
  for (int i = 0; i < OPS[op].inputs; ++i) {
    in[i].rank = ranks[i];
    for (int d = 0; d < ranks[i]; ++d) in[i].dims[d] = dims[i * MAX_RANK + d];
  }
  Launch launch;
  if (!output_shape(op, in, attributes, shape) || !launch_of(op, in, attributes, launch)) return 0;
  *out++ = shape.rank;
  *out++ = launch.count;
  for (int i = 0; i < shape.rank; ++i) *out++ = shape.dims[i];
  for (int i = 0; i < 3; ++i) *out++ = launch.grid[i];
  for (int i = 0; i < 3; ++i) *out++ = launch.block[i];
  for (int i = 0; i < launch.count; ++i) *out++ = launch.numbers[i];
  return 1;
}
"""


def compiled(sources: list[Path], library: Path, *options: str) -> ctypes.CDLL:
    compiler = compiler_of_the_host()
    command = [compiler, "-std=c++17", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", f"-I{CPP}", *options]
    done = subprocess.run(
        [*command, "-o", str(library), "-x", "c++", *map(str, sources)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def geometry(tmp_path_factory: pytest.TempPathFactory) -> Geometry:
    """Output shape and launch by C++; None where the library has no kernel."""
    folder = tmp_path_factory.mktemp("cpp")
    cpp_sources.write(folder)
    (folder / "wrapper.cpp").write_text(WRAPPER)
    library = compiled([folder / "wrapper.cpp"], folder / "geometry.so", f"-I{folder}")

    def ask(op: PluginOp, shapes: Any, attributes: Any) -> tuple[tuple[int, ...], Launch] | None:
        ranks, dims, out = np.zeros(INPUTS, np.int32), np.zeros((INPUTS, RANK), np.int64), np.zeros(64, np.int64)
        for i, shape in enumerate(shapes):
            ranks[i] = len(shape)
            dims[i, : len(shape)] = shape
        values = np.array([*attributes.values(), 0], np.int64)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (ranks, dims, values, out)]
        if not library.geometry(ALL.index(op), *pointers):
            return None
        rank, count, *rest = out.tolist()
        shape, grid, block, numbers = np.split(np.array(rest), np.cumsum([rank, 3, 3]))
        launch = Launch(tuple(grid.tolist()), tuple(block.tolist()), tuple(numbers[:count].tolist()))
        return tuple(shape.tolist()), launch

    return ask


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_shapes_and_launches_are_those_of_the_record(op: PluginOp, data: st.DataObject, geometry: Geometry) -> None:
    """Usual shapes with other numbers: what is equal stays equal, ones stay ones, fixed sizes vary as they may."""
    usual, attributes = USUAL[op.name]
    fixed: dict[int, set[int]] = {}
    for sizes in cpp_sources.FIXED.get(op.name, []):
        for dims, allowed in zip(usual, sizes, strict=True):
            for dim, size in zip(dims, allowed, strict=True):
                fixed.setdefault(dim, set()).update(set() if size is None else {size})
    others = {1: 1}
    for value in sorted({dim for shape in usual for dim in shape} | set(attributes.values())):
        choices = fixed.get(value) or range(1, 3000)
        others.setdefault(value, data.draw(st.sampled_from(sorted(choices))))
    shapes = [tuple(others[dim] for dim in shape) for shape in usual]
    given_attributes = {name: others[value] for name, value in attributes.items()}
    assert geometry(op, shapes, given_attributes) == expected(op, shapes, given_attributes)


def expected(op: PluginOp, shapes: Any, attributes: Any) -> tuple[tuple[int, ...], Launch]:
    """What the record says where dims are not known when the engine is built, for the library knows none but FIXED."""

    def later(value: int) -> Symbol:
        return Symbol(value, lambda operation, left, right: ARITHMETIC[operation](left, right))

    sizes: Any = cpp_sources.FIXED.get(op.name, [[(None,) * len(shape) for shape in shapes]])[0]
    unknown = [
        tuple(later(dim) if size is None else dim for dim, size in zip(shape, allowed, strict=True))
        for shape, allowed in zip(shapes, sizes, strict=True)
    ]
    symbols: Any = {name: later(value) for name, value in attributes.items()}
    launch = op.launch(unknown, symbols)
    output, grid, numbers = (
        tuple(map(expression_of, dims)) for dims in (op.output_shape(unknown, symbols), launch.grid, launch.numbers)
    )
    return output, Launch(grid, launch.block, numbers)  # type: ignore[arg-type] - a grid has three


def test_a_matrix_for_each_image_is_another_variant(geometry: Geometry) -> None:
    op = next(op for op in ALL if op.name == "TokenPyramid")
    for matrix in ((4, 10), (3, 4, 10)):
        shapes, attributes = [(3, 12, 8), matrix], {"num_prefix": 2}
        assert geometry(op, shapes, attributes) == expected(op, shapes, attributes)


def test_what_the_library_has_no_kernel_for_is_refused(geometry: Geometry) -> None:
    ops = {op.name: op for op in ALL}
    assert geometry(ops["EcaGate"], [(2, 3), (1, 1, 3)], {}) is None
    assert geometry(ops["TokenDwConvGelu"], [(2, 4, 4, 8), (8, 1, 9, 9), (8,)], {"channels": 8}) is None


def test_each_kernel_of_the_table_is_in_one_file(tmp_path: Path) -> None:
    units = cpp_sources.write(tmp_path)
    table = (tmp_path / "kernel_table.h").read_text()
    assert len(set(units)) == len(units)
    for unit in units:
        assert table.count(f'extern "C" const void* skipvit_{unit.stem}();') == 1
        assert f"skipvit_{unit.stem}()" in unit.read_text()
    assert table.count('extern "C"') == len(units)
    assert len(units) % len(SCALARS) == 0


def test_kernels_of_one_op_live_in_one_library(tmp_path: Path) -> None:
    """Each has a name of its own; the host's linker would complain as a GPU's does."""
    units = [unit for unit in cpp_sources.write(tmp_path) if unit.stem in ("eca_gate_f16", "eca_gate_bf16")]
    units += [tmp_path / f"token_dwconv_gelu_{size}_f32.cu" for size in (3, 5)]
    library = compiled(
        units, tmp_path / "kernels.so", "-DSKIPVIT_HOST", f"-I{KERNELS}", "-Wno-unknown-pragmas", "-Wno-psabi"
    )
    addresses = set()
    for unit in units:
        function = getattr(library, f"skipvit_{unit.stem}")
        function.restype = ctypes.c_void_p
        addresses.add(function())
    assert len(addresses) == len(units)


def test_files_that_are_as_they_should_be_are_left_alone(tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in cpp_sources.write(tmp_path)}
    assert {path: path.stat().st_mtime_ns for path in cpp_sources.write(tmp_path)} == before


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_without_tensorrts_headers_cmake_says_where_they_come_from(tmp_path: Path) -> None:
    nowhere = ["-DCMAKE_FIND_ROOT_PATH=/nonexistent", "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY"]
    command = ["cmake", "-S", str(CPP), "-B", str(tmp_path), *nowhere]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "NvInfer.h is not found" in done.stderr
    assert "-DTENSORRT_ROOT=" in done.stderr
