"""A GPU of threads: every stream is one, so that work which is not ordered by its stream happens in the wrong order.

Memory is poisoned when it is given out and gone when it is freed; copies read their source when they run, as the
copy engines of a GPU do.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trt_plugins.device_memory import DeviceBuffer, PinnedBuffer, Stream

Work = Callable[[], None]
POISON = 0xCD


class GpuLost(RuntimeError):
    """What a driver reports from the first illegal access on, for good."""


class FakeStream:
    """Runs what is queued, in order, in a thread of its own."""

    def __init__(self, gpu: "FakeGpu") -> None:
        self._gpu = gpu
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._recorded: list[Work] | None = None
        self.broken_capture = False
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def recording(self) -> bool:
        return self._recorded is not None

    def push(self, work: Work) -> None:
        if self._gpu.lost:
            raise GpuLost("an illegal memory access was encountered")
        if self._recorded is not None:
            self._recorded.append(work)
        else:
            self._work.put(work)

    def begin(self) -> None:
        self._recorded, self.broken_capture = [], False

    def end(self) -> list[Work]:
        recorded, self._recorded = self._recorded or [], None
        if self.broken_capture:
            raise RuntimeError("the capture was invalidated by an operation that it does not allow")
        return recorded

    def synchronize(self) -> None:
        if self.recording:
            self.broken_capture = True
            raise RuntimeError("a stream that is captured cannot be waited for")
        done = threading.Event()
        self._work.put(done.set)
        assert done.wait(120), "the fake stream hangs"
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        if self._gpu.lost:
            raise GpuLost("an illegal memory access was encountered")

    def close(self) -> None:
        self._work.put(None)
        self._thread.join(120)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            time.sleep(self._gpu.delay_s)
            try:
                work()
            except Exception as error:  # reported where the host waits, as CUDA does
                self.failure = error
                self._gpu.lost |= isinstance(error, GpuLost)


@dataclass
class FakeGpu:
    """Memory by address, streams by handle."""

    delay_s: float = 0.0
    lost: bool = False
    out_of_memory_at: int = 1 << 40
    memory: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)
    streams: dict[int, FakeStream] = field(default_factory=dict)
    pinned: int = 0
    next_address: int = 0x7F0000000000

    def allocate(self, size: int) -> int:
        if size + sum(block.size for block in self.memory.values()) > self.out_of_memory_at:
            raise MemoryError("CUDA_ERROR_OUT_OF_MEMORY")
        self.next_address += -(-size // 256) * 256 + 256
        self.memory[self.next_address] = np.full(size, POISON, np.uint8)
        return self.next_address

    def at(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        if address not in self.memory or self.memory[address].size < size:
            raise GpuLost(f"illegal access of {size} bytes at {address:#x}")
        return self.memory[address][:size]

    @property
    def leftovers(self) -> tuple[int, int, int]:
        """Device buffers, streams and pinned buffers that nobody freed."""
        return len(self.memory), len(self.streams), self.pinned


class FakeMemory:
    """A DeviceBackend on a fake GPU; it minds that the device is current wherever it must be."""

    name = "fake"
    gpu = "Fake GPU"

    def __init__(self, gpu: FakeGpu, has_graphs: bool = True) -> None:
        self.device = gpu
        self.has_graphs = has_graphs
        self.captured = 0
        self.launched = 0
        self._here = threading.local()

    @contextmanager
    def current(self) -> Iterator[None]:
        self._here.current = True
        try:
            yield
        finally:
            self._here.current = False

    def _checked(self) -> FakeGpu:
        assert getattr(self._here, "current", False), "no device is current in this thread"
        return self.device

    def stream(self) -> Stream:
        gpu = self._checked()
        made = FakeStream(gpu)
        gpu.streams[id(made)] = made
        return Stream(id(made), made)

    def on_device(self, size: int, stream: Stream) -> DeviceBuffer:
        return DeviceBuffer(self._checked().allocate(size), size, None)

    def pinned(self, size: int) -> PinnedBuffer:
        self._checked().pinned += 1
        return PinnedBuffer(np.zeros(size, np.uint8), None)

    def copy_in(self, source: PinnedBuffer, target: DeviceBuffer, size: int, stream: Stream) -> None:
        gpu = self._checked()

        def work() -> None:
            gpu.at(target.address, size)[:] = source.bytes[:size]

        stream.owner.push(work)

    def copy_out(self, source: DeviceBuffer, target: PinnedBuffer, size: int, stream: Stream) -> None:
        gpu = self._checked()

        def work() -> None:
            target.bytes[:size] = gpu.at(source.address, size)

        stream.owner.push(work)

    def synchronize(self, stream: Stream) -> None:
        self._checked()
        stream.owner.synchronize()

    def capture(self, stream: Stream, work: Callable[[], None]) -> Callable[[], None]:
        self._checked()
        stream.owner.begin()
        try:
            work()
        finally:
            recorded = stream.owner.end()
        self.captured += 1

        def launch() -> None:
            self.launched += 1
            for step in recorded:
                stream.owner.push(step)

        return launch

    def free(self, *held: Stream | DeviceBuffer | PinnedBuffer) -> None:
        gpu = self._checked()
        for one in held:
            if isinstance(one, Stream):
                gpu.streams.pop(one.handle).close()
            elif isinstance(one, DeviceBuffer):
                del gpu.memory[one.address]
            else:
                gpu.pinned -= 1
