"""Launches kernels on the GPU whose context is current: code is loaded once, a launch prepared once for its shapes.

A launch goes to the caller's stream and returns at once. Inside the capture of a CUDA graph it becomes a node of the
graph; the first launch compiles and loads the kernel, so callers had better run each shape once before they capture.
"""

import ctypes
import functools
import threading
from collections.abc import Sequence
from typing import Any

from trt_plugins import cubins
from trt_plugins.plugin_op import Attributes, PluginOp, Scalar

_REMEMBERED = 4096  # prepared launches, each some hundred bytes
_LoadKey = tuple[int, str, Scalar, tuple[tuple[str, int], ...]]


class DeviceError(Exception):
    """There is no GPU to launch on, or CUDA refused; the message has the kernel, the shapes and CUDA's words."""


def launch(
    op: PluginOp,
    scalar: Scalar,
    shapes: Sequence[tuple[int, ...]],
    attributes: Attributes,
    pointers: Sequence[int],
    stream: int,
) -> None:
    """Launches ``op``'s kernel on a stream of the current context; an output without elements needs no launch.

    Args:
        shapes: of the inputs, in order.
        pointers: device addresses of the inputs and of the output, of contiguous tensors whose first element lies at a
            multiple of 16 bytes.
        stream: the raw ``cudaStream_t``; 0 is the default stream.

    Raises:
        DeviceError: see the class. What goes wrong while the kernel runs shows at the next synchronisation instead.
        CompileError: the kernel cannot be compiled.
    """
    context = _current_context()
    key = tuple(tuple(shape) for shape in shapes)
    _prepared(context, op, scalar, key, tuple(sorted(attributes.items()))).launch(pointers, stream)


def architecture_of(major: int, minor: int, known: Sequence[int] = cubins.ARCHITECTURES) -> int:
    """The architecture to compile for: the newest known one of the GPU's own major version, not beyond its minor one.

    Machine code runs on GPUs of its major version whose minor version is the same or higher.

    Raises:
        DeviceError: no known architecture runs on such a GPU.
    """
    fitting = [number for number in known if number // 10 == major and number % 10 <= minor]
    if not fitting:
        names = ", ".join(f"{number // 10}.{number % 10}" for number in sorted(known))
        raise DeviceError(f"kernels are compiled for GPUs of compute capability {names}; this one has {major}.{minor}")
    return max(fitting)


def current_architecture() -> int:
    """`architecture_of` the GPU whose context is current.

    Raises:
        DeviceError: see the class.
    """
    _current_context()
    return architecture_of(*_capability())


class _Prepared:
    """One kernel for one set of shapes: only addresses and stream are missing."""

    def __init__(self, op: PluginOp, scalar: Scalar, shapes: Sequence[tuple[int, ...]], attributes: Attributes) -> None:
        self.what = f"{op.entry(scalar)} for {', '.join(map(str, shapes))}"
        self.empty = 0 in op.output_shape(shapes, attributes)
        if self.empty:  # records divide by dims
            return
        numbers = op.launch(shapes, attributes)
        self.grid, self.block = numbers.grid, numbers.block
        self.arguments = Arguments(len(op.inputs), numbers.numbers)
        self.function: Any = None
        self._lock = threading.Lock()  # threads share the argument block; the driver copies it before it returns

    def launch(self, pointers: Sequence[int], stream: int) -> None:
        if self.empty:
            return
        with self._lock:
            self.arguments.fill(pointers)
            (status,) = _driver().cuLaunchKernel(
                self.function, *self.grid, *self.block, 0, stream, self.arguments.address, 0
            )
        if status:
            raise DeviceError(f"{self.what}: grid {self.grid}, block {self.block}: {_words(status)}")


class Arguments:
    """What a launch reads: an array of the addresses of the values; the addresses of tensors change, numbers do not.

    Args:
        inputs: pointers before the numbers; one pointer, of the output, comes after them.
        numbers: each fits 32 bits.
    """

    def __init__(self, inputs: int, numbers: Sequence[int]) -> None:
        self._pointers = (ctypes.c_uint64 * (inputs + 1))()
        self._numbers = (ctypes.c_int32 * len(numbers))(*numbers)
        if list(self._numbers) != list(numbers):
            raise DeviceError(
                f"a kernel takes 32-bit numbers, and one of {list(numbers)} is larger; use smaller batches"
            )
        first, second = ctypes.addressof(self._pointers), ctypes.addressof(self._numbers)
        values = [first + 8 * i for i in range(inputs)]
        values += [second + 4 * i for i in range(len(numbers))]
        self._values = (ctypes.c_uint64 * (len(values) + 1))(*values, first + 8 * inputs)
        self.address = ctypes.addressof(self._values)

    def fill(self, pointers: Sequence[int]) -> None:
        """Puts in the addresses of the inputs and of the output.

        Raises:
            DeviceError: their number is another.
        """
        if len(pointers) != len(self._pointers):
            raise DeviceError(
                f"a launch got {len(pointers)} addresses; it needs {len(self._pointers)}, the output's last"
            )
        self._pointers[:] = list(pointers)


@functools.lru_cache(maxsize=_REMEMBERED)
def _prepared(
    context: int,
    op: PluginOp,
    scalar: Scalar,
    shapes: tuple[tuple[int, ...], ...],
    attributes: tuple[tuple[str, int], ...],
) -> _Prepared:
    known = dict(attributes)
    prepared = _Prepared(op, scalar, shapes, known)
    if not prepared.empty:
        prepared.function = _function(context, op, scalar, tuple(sorted(op.constants(shapes, known).items())))
    return prepared


@functools.cache
def _function(context: int, op: PluginOp, scalar: Scalar, constants: tuple[tuple[str, int], ...]) -> Any:
    """The loaded kernel; a module belongs to a context, and is unloaded with it."""
    driver = _driver()
    code = cubins.cubin(op, scalar, architecture_of(*_capability()), dict(constants))
    what = op.entry(scalar)
    # While any thread captures a graph, loading is refused unless this thread says that it knows what it does.
    relaxed = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    before = _checked(driver.cuThreadExchangeStreamCaptureMode(relaxed), what)
    try:
        module = _checked(driver.cuModuleLoadData(code), what)
        return _checked(driver.cuModuleGetFunction(module, what.encode()), what)
    finally:
        driver.cuThreadExchangeStreamCaptureMode(before)


def _current_context() -> int:
    """Number of the current context, which no later context gets again."""
    driver = _driver()
    context = _checked(driver.cuCtxGetCurrent(), "looking for a GPU")
    if not int(context):
        raise DeviceError("this thread has no CUDA context; create a tensor or a stream on the GPU first")
    return int(_checked(driver.cuCtxGetId(context), "looking for a GPU"))


def _capability() -> tuple[int, int]:
    driver = _driver()
    device = _checked(driver.cuCtxGetDevice(), "looking for a GPU")
    ask = driver.CUdevice_attribute
    major, minor = (
        int(_checked(driver.cuDeviceGetAttribute(attribute, device), "looking for a GPU"))
        for attribute in (
            ask.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            ask.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return major, minor


@functools.cache
def _driver() -> Any:
    """NVIDIA's bindings of the driver, once it is known that there is a driver."""
    try:
        from cuda.bindings import driver
    except ImportError:
        raise DeviceError("kernels are launched through cuda-core; run: pip install 'skipvit[cuda]'") from None
    try:
        (status,) = driver.cuInit(0)
    except RuntimeError as error:  # libcuda is loaded by the first call
        raise DeviceError(f"there is no NVIDIA driver on this machine: {error}") from None
    if status != driver.CUresult.CUDA_SUCCESS:
        raise DeviceError(f"the NVIDIA driver does not start: {status.name}")
    return driver


def _checked(answer: tuple[Any, ...], what: str) -> Any:
    status, *values = answer
    if status:
        raise DeviceError(f"{what}: {_words(status)}")
    return values[0] if values else None


def _words(status: Any) -> str:
    _, text = _driver().cuGetErrorString(status)
    return f"{status.name}: {text.decode() if text else 'no description'}"
