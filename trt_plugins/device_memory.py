"""The few things that running an engine needs of CUDA: streams, memory, copies and graphs.

Two backends do them: cuda-core, NVIDIA's own, here; and pycuda in trt_plugins.pycuda_memory. Both work in the primary
context of the first visible GPU, which TensorRT, ONNX Runtime and PyTorch share.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from trt_plugins.engine_plan import EngineError

Memory = Literal["auto", "cuda-core", "pycuda"]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Stream:
    """A queue of work on the GPU: ``handle`` is its cudaStream_t, ``owner`` the backend's own objects."""

    handle: int
    owner: Any


@dataclass(frozen=True)
class DeviceBuffer:
    """Memory of the GPU, at an address that is a multiple of 256."""

    address: int
    size: int
    owner: Any


@dataclass(frozen=True)
class PinnedBuffer:
    """Page-locked memory of the host, from and to which the GPU copies while the CPU goes on."""

    bytes: Bytes
    owner: Any


class DeviceBackend(Protocol):
    """Streams, memory and graphs of one GPU.

    Copies only queue work on the stream. Whoever calls anything but ``current`` is inside ``with backend.current()``.
    """

    name: str
    gpu: str
    """The GPU's name."""
    has_graphs: bool

    def current(self) -> AbstractContextManager[None]:
        """Makes the GPU the calling thread's."""

    def stream(self) -> Stream:
        """A new stream that does not wait for the others."""

    def on_device(self, size: int, stream: Stream) -> DeviceBuffer:
        """``size`` bytes on the GPU, of any content, to be used on ``stream``."""

    def pinned(self, size: int) -> PinnedBuffer:
        """``size`` bytes of page-locked host memory, zeros."""

    def copy_in(self, source: PinnedBuffer, target: DeviceBuffer, size: int, stream: Stream) -> None:
        """Queues a copy of the first ``size`` bytes to the GPU."""

    def copy_out(self, source: DeviceBuffer, target: PinnedBuffer, size: int, stream: Stream) -> None:
        """Queues a copy of the first ``size`` bytes from the GPU."""

    def synchronize(self, stream: Stream) -> None:
        """Waits for all that was queued on ``stream``, without keeping a core busy."""

    def capture(self, stream: Stream, work: Callable[[], None]) -> Callable[[], None]:
        """Records what ``work`` queues on ``stream`` as a graph, without running it; the result launches it there."""

    def free(self, *held: Stream | DeviceBuffer | PinnedBuffer) -> None:
        """Gives back what ``stream``, ``on_device`` and ``pinned`` gave; nothing queued may still use it."""


def open_memory(choice: Memory) -> DeviceBackend:
    """The backend of that name; ``auto`` takes cuda-core where it is installed, else pycuda.

    Raises:
        EngineError: it is not installed, or there is no GPU.
    """
    for name, package, extra in (("cuda-core", "cuda.core", "cuda"), ("pycuda", "pycuda", "pycuda")):
        if choice not in ("auto", name):
            continue
        if _is_installed(package):
            return _opened(name)
        if choice == name:
            raise EngineError(f"{name} is not installed; run: pip install 'skipvit[{extra}]'")
    raise EngineError("running engines needs cuda-core or pycuda; run: pip install 'skipvit[cuda]'")


def _is_installed(package: str) -> bool:
    """``cuda`` alone says nothing: other packages of NVIDIA's, which PyTorch brings, share that name."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


def _opened(name: str) -> DeviceBackend:
    try:
        if name == "cuda-core":
            return CudaCoreMemory()
        from trt_plugins.pycuda_memory import PycudaMemory

        return PycudaMemory()
    except Exception as error:  # each library has its own errors for no driver, no GPU and a GPU that is taken
        raise EngineError(
            f"{name} finds no NVIDIA GPU to run on ({' '.join(str(error).split())[:200]}); see what nvidia-smi says, "
            "or run the ONNX file"
        ) from error


class CudaCoreMemory:
    """CUDA through cuda-core. ``Stream.owner`` is a stream and the event that ``synchronize`` waits for."""

    name = "cuda-core"
    has_graphs = True

    def __init__(self) -> None:
        from cuda import core

        self._core = core
        self._device = core.Device(0)
        self._device.set_current()
        self._pinned = core.LegacyPinnedMemoryResource()
        self.gpu = str(self._device.name)

    @contextmanager
    def current(self) -> Iterator[None]:
        self._device.set_current()
        yield

    def stream(self) -> Stream:
        made = self._device.create_stream()
        # Engine threads that spin would take the cores that decode pictures.
        done = self._device.create_event(self._core.EventOptions(blocking_sync=True))
        return Stream(int(made.handle), (made, done))

    def on_device(self, size: int, stream: Stream) -> DeviceBuffer:
        buffer = self._device.allocate(size, stream=stream.owner[0])
        return DeviceBuffer(int(buffer.handle), size, buffer)

    def pinned(self, size: int) -> PinnedBuffer:
        buffer = self._pinned.allocate(size)
        content = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(buffer.handle)))
        content.fill(0)
        return PinnedBuffer(content, buffer)

    def copy_in(self, source: PinnedBuffer, target: DeviceBuffer, size: int, stream: Stream) -> None:
        self._first(target.owner, size).copy_from(self._first(source.owner, size), stream=stream.owner[0])

    def copy_out(self, source: DeviceBuffer, target: PinnedBuffer, size: int, stream: Stream) -> None:
        self._first(target.owner, size).copy_from(self._first(source.owner, size), stream=stream.owner[0])

    def _first(self, buffer: Any, size: int) -> Any:
        return self._core.Buffer.from_handle(buffer.handle, size, owner=buffer)

    def synchronize(self, stream: Stream) -> None:
        queue, done = stream.owner
        queue.record(done)
        done.sync()

    def capture(self, stream: Stream, work: Callable[[], None]) -> Callable[[], None]:
        queue = stream.owner[0]
        builder = queue.create_graph_builder()
        try:
            builder.begin_building("thread_local")  # another thread may allocate meanwhile, for another model
            work()
            graph = builder.end_building().complete()
        finally:
            with suppress(Exception):  # it ends a capture that failed, and says again that it failed
                builder.close()
        return lambda: graph.launch(queue)

    def free(self, *held: Stream | DeviceBuffer | PinnedBuffer) -> None:
        for one in held:
            for owner in one.owner if isinstance(one.owner, tuple) else (one.owner,):
                owner.close()
