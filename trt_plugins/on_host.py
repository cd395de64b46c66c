"""Runs a kernel's own source on the CPU: built by the host's C++ compiler, called on NumPy arrays. For tests.

Built libraries are kept in a folder by the hash of everything they were built from.
"""

import ctypes
import functools
import hashlib
import os
import shutil
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
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-DSKIPVIT_HOST", "-Wall", "-Wextra", "-Wno-unknown-pragmas")


class HostError(Exception):
    """A kernel could not be built for the host, or wrote where it must not."""


def run(op: PluginOp, scalar: Scalar, arrays: Sequence[Array], attributes: Attributes | None = None) -> Array:
    """Launches ``op``'s kernel on the host over the whole grid.

    Args:
        arrays: the inputs; float32, float16, or uint16 that hold bfloat16 bits, as ``scalar`` says.

    Returns:
        The output in the dtype of the inputs.

    Raises:
        HostError: no compiler, source that does not compile, or an output written past its end or not whole.
    """
    shapes, attributes = [array.shape for array in arrays], attributes or {}
    launch = op.launch(shapes, attributes)
    function = _function(op, scalar, tuple(sorted(op.constants(shapes, attributes).items())))
    shape = op.output_shape(shapes, attributes)
    size = int(np.prod(shape))
    room = np.frombuffer(b"\xa5" * arrays[0].itemsize * (size + 2 * _GUARD), arrays[0].dtype).copy()
    aligned = [_aligned(array) for array in arrays]
    output = _aligned(room)
    addresses = [
        *(ctypes.c_void_p(array.ctypes.data) for array in aligned),
        *(ctypes.c_int32(number) for number in launch.numbers),
        ctypes.c_void_p(output.ctypes.data + _GUARD * output.itemsize),
    ]
    arguments = (ctypes.c_void_p * len(addresses))(*(ctypes.addressof(a) for a in addresses))
    function((ctypes.c_int * 3)(*launch.grid), (ctypes.c_int * 3)(*launch.block), arguments)
    untouched = np.concatenate([output[:_GUARD], output[_GUARD + size :]])
    if not np.array_equal(untouched.view(np.uint8), room.view(np.uint8)[: untouched.nbytes]):
        raise HostError(f"{op.kernel} wrote outside its output {shape}")
    return output[_GUARD : _GUARD + size].reshape(shape).copy()


def build(op: PluginOp, scalar: Scalar, constants: Mapping[str, int]) -> Path:
    """The shared library of one kernel, built unless it is there already.

    Raises:
        HostError: there is no compiler, or it refuses the source.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise HostError("no C++ compiler; install one (Debian: apt install g++) or name one in CXX")
    defines = [f"-DSCALAR_{scalar}", *(f"-D{name}={value}" for name, value in sorted(constants.items()))]
    unit = f'#include "{op.source}"\nHOST_ENTRY({op.entry(scalar)})\n'
    sources = "".join(path.read_text() for path in sorted(KERNELS.iterdir()) if path.suffix in (".cu", ".cuh", ".h"))
    key = hashlib.sha256("\0".join([compiler, *_FLAGS, *defines, unit, sources]).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"skipvit-host-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
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


@functools.cache
def _function(op: PluginOp, scalar: Scalar, constants: tuple[tuple[str, int], ...]) -> Any:
    return ctypes.CDLL(str(build(op, scalar, dict(constants)))).host_launch


def _aligned(array: Array) -> Array:
    """A contiguous copy that starts at a multiple of 256 bytes, as GPU memory does."""
    room = np.empty(array.nbytes + 256, np.uint8)
    start = -room.ctypes.data % 256
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
