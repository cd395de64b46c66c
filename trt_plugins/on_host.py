"""Runs a kernel's own source on the CPU: built by the host's C++ compiler, called on NumPy arrays. For tests.

Built libraries are kept in a folder of the user's by the hash of everything they were built from. One launch at a time
in a process: a block's shared memory is a static array.
"""

import ctypes
import functools
import hashlib
import mmap
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_plugins.plugin_op import KERNELS, Attributes, PluginOp, Scalar

Array = npt.NDArray[Any]
_GUARD = 64  # elements before and after an output that no kernel may touch
_POISON = 0xFF  # of every byte of an output before the launch: NaN in each scalar
_FLAGS = (
    *("-std=c++17", "-O2", "-fPIC", "-shared", "-DSKIPVIT_HOST", "-Wall", "-Wextra", "-Wno-unknown-pragmas"),
    "-fno-strict-aliasing",  # kernels read and write pairs of scalars as words
    "-fvisibility=hidden",  # kernels of two libraries have static arrays of the same name
    "-U_FORTIFY_SOURCE",  # whose longjmp takes another fiber's stack for a broken one
)


class HostError(Exception):
    """A kernel could not be built for the host, or wrote where it must not."""


def run(op: PluginOp, scalar: Scalar, arrays: Sequence[Array], attributes: Attributes | None = None) -> Array:
    """Launches ``op``'s kernel on the host over the whole grid.

    What a GPU leaves undefined, and reading far before or behind an input, ends the program.

    Args:
        arrays: the inputs; float32, float16, or uint16 that hold bfloat16 bits, as ``scalar`` says.

    Returns:
        The output in the dtype of the inputs.

    Raises:
        HostError: no compiler, source that does not compile, an output written past its end or not whole, or an
            input that was written to.
    """
    shapes, attributes = [array.shape for array in arrays], attributes or {}
    launch = op.launch(shapes, attributes)
    function = _function(op, scalar, tuple(sorted(op.constants(shapes, attributes).items())))
    shape = op.output_shape(shapes, attributes)
    size, itemsize = int(np.prod(shape)), arrays[0].itemsize
    inputs = [_aligned(array) for array in arrays]
    output = _aligned(np.full((size + 2 * _GUARD) * itemsize, _POISON, np.uint8))
    addresses = [
        *(ctypes.c_void_p(array.ctypes.data) for array in inputs),
        *(ctypes.c_int32(number) for number in launch.numbers),
        ctypes.c_void_p(output.ctypes.data + _GUARD * itemsize),
    ]
    arguments = (ctypes.c_void_p * len(addresses))(*(ctypes.addressof(a) for a in addresses))
    function((ctypes.c_int * 3)(*launch.grid), (ctypes.c_int * 3)(*launch.block), arguments)
    before, result, after = np.split(output, [_GUARD * itemsize, (_GUARD + size) * itemsize])
    if (before != _POISON).any() or (after != _POISON).any():
        raise HostError(f"{op.kernel} wrote outside its output {shape}")
    missing = int((result.reshape(size, itemsize) == _POISON).all(axis=1).sum())
    if missing:
        raise HostError(f"{op.kernel} left {missing} of the {size} elements of its output {shape} unwritten")
    for name, array, given in zip(op.inputs, inputs, arrays, strict=True):
        if array.tobytes() != given.tobytes():
            raise HostError(f"{op.kernel} wrote into its input {name}")
    return result.view(arrays[0].dtype).reshape(shape).copy()


def build(op: PluginOp, scalar: Scalar, constants: Mapping[str, int]) -> Path:
    """The shared library of one kernel, built unless it is there already.

    Raises:
        HostError: there is no compiler, or it refuses the source.
    """
    compiler = compiler_of_the_host()
    defines = [f"-DSCALAR_{scalar}", *(f"-D{name}={value}" for name, value in sorted(constants.items()))]
    unit = f'#include "{op.source}"\nHOST_ENTRY({op.entry(scalar)})\n'
    sources = "".join(
        path.read_text(encoding="utf-8") for path in sorted(KERNELS.iterdir()) if path.suffix in (".cu", ".cuh", ".h")
    )
    parts = [compiler, *_FLAGS, *defines, unit, op.source.read_text(encoding="utf-8"), sources]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    folder = _own_folder()
    library = folder / f"{op.entry(scalar)}-{key}.so"
    if not library.exists():
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".so", delete=False) as file:
            made = Path(file.name)
        command = [compiler, *_FLAGS, *defines, "-I", str(KERNELS), "-x", "c++", "-", "-o", str(made)]
        done = subprocess.run(command, input=unit, capture_output=True, text=True, check=False)
        if done.returncode:
            made.unlink()
            raise HostError(f"{op.source.name} does not compile for the host:\n{done.stderr}")
        made.replace(library)
    return library


def compiler_of_the_host() -> str:
    """The C++ compiler that CXX names, else the first that is there.

    Raises:
        HostError: there is none.
    """
    named = os.environ.get("CXX")
    for name in (named,) if named else ("c++", "g++", "clang++"):
        found = shutil.which(name)
        if found:
            return found
    what = f"CXX names {named}, which is not there" if named else "there is no C++ compiler"
    raise HostError(f"{what}; install one (Debian: apt install g++) or name one in CXX")


def _own_folder() -> Path:
    """Where libraries are kept. Code is loaded from it, so it must be ours, and nobody else's to write to."""
    folder = Path(tempfile.gettempdir()) / f"skipvit-host-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise HostError(f"{folder} is another user's, or open to others; remove it, or name another place in TMPDIR")
    return folder


@functools.cache
def _function(op: PluginOp, scalar: Scalar, constants: tuple[tuple[str, int], ...]) -> Any:
    return ctypes.CDLL(str(build(op, scalar, dict(constants)))).host_launch


def _aligned(array: Array) -> Array:
    """A contiguous copy that starts at a multiple of 16 bytes and ends before a page that ends who touches it.

    As many bytes as the start costs, less than 16, are NaN; so is what lies before the copy on its first page.
    """
    size, page = -(-array.nbytes // 16) * 16, mmap.PAGESIZE
    inside = -(-size // page) * page
    room = np.frombuffer(mmap.mmap(-1, inside + 2 * page), np.uint8)
    for offset in (0, page + inside):
        if ctypes.CDLL(None).mprotect(ctypes.c_void_p(room.ctypes.data + offset), ctypes.c_size_t(page), 0):
            raise HostError("the system refuses to guard memory")
    room[page : page + inside] = _POISON
    start = page + inside - size
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
