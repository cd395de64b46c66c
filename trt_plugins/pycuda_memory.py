"""CUDA through pycuda: for machines that have it already. It has no graphs, so each batch is enqueued anew."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from trt_plugins.device_memory import DeviceBuffer, PinnedBuffer, Stream

_NON_BLOCKING = 1  # a stream that does not wait for the default one


class PycudaMemory:
    """The primary context, not one of pycuda's own: TensorRT and ONNX Runtime allocate in that one."""

    name = "pycuda"
    has_graphs = False

    def __init__(self) -> None:
        import pycuda.driver as cuda

        self._cuda = cuda
        cuda.init()
        device = cuda.Device(0)
        self._context = device.retain_primary_context()
        self.gpu = str(device.name())

    @contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def stream(self) -> Stream:
        flags = self._cuda.event_flags
        made, done = self._cuda.Stream(_NON_BLOCKING), self._cuda.Event(flags.BLOCKING_SYNC | flags.DISABLE_TIMING)
        return Stream(int(made.handle), (made, done))

    def on_device(self, size: int, stream: Stream) -> DeviceBuffer:
        buffer = self._cuda.mem_alloc(size)
        return DeviceBuffer(int(buffer), size, buffer)

    def pinned(self, size: int) -> PinnedBuffer:
        content = self._cuda.pagelocked_zeros(size, np.uint8)
        return PinnedBuffer(content, content.base)

    def copy_in(self, source: PinnedBuffer, target: DeviceBuffer, size: int, stream: Stream) -> None:
        self._cuda.memcpy_htod_async(target.address, source.bytes[:size], stream.owner[0])

    def copy_out(self, source: DeviceBuffer, target: PinnedBuffer, size: int, stream: Stream) -> None:
        self._cuda.memcpy_dtoh_async(target.bytes[:size], source.address, stream.owner[0])

    def synchronize(self, stream: Stream) -> None:
        queue, done = stream.owner
        done.record(queue)
        done.synchronize()

    def capture(self, stream: Stream, work: Callable[[], None]) -> Callable[[], None]:
        raise NotImplementedError("pycuda has no CUDA graphs")

    def free(self, *held: Stream | DeviceBuffer | PinnedBuffer) -> None:
        for one in held:
            if not isinstance(one, Stream):  # pycuda frees streams and events when the last reference goes
                one.owner.free()
