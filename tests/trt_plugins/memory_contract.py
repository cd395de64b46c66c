"""What every DeviceBackend must do, as checks that take one: on a GPU, and on what stands in for one."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from trt_plugins.device_memory import DeviceBackend, DeviceBuffer, PinnedBuffer, Stream

SIZE = 1000
PATTERN = (np.arange(SIZE) % 251).astype(np.uint8)


class Rig:
    """A stream, a buffer on the device and one on each of its ends."""

    def __init__(self, memory: DeviceBackend) -> None:
        self.memory = memory
        self.stream: Stream = memory.stream()
        self.device: DeviceBuffer = memory.on_device(SIZE, self.stream)
        self.source: PinnedBuffer = memory.pinned(SIZE)
        self.target: PinnedBuffer = memory.pinned(SIZE)

    def queue(self, size: int = SIZE) -> None:
        self.memory.copy_in(self.source, self.device, size, self.stream)
        self.memory.copy_out(self.device, self.target, size, self.stream)

    def finish(self) -> None:
        self.memory.synchronize(self.stream)

    def close(self) -> None:
        self.memory.free(self.target, self.source, self.device, self.stream)


def addresses_are_aligned(memory: DeviceBackend) -> None:
    rig = Rig(memory)
    assert rig.device.address % 256 == 0
    assert rig.stream.handle, "TensorRT refuses to run on the default stream"
    assert not rig.source.bytes.any(), "page-locked memory starts as zeros"
    rig.close()


def a_copy_there_and_back(memory: DeviceBackend) -> None:
    rig = Rig(memory)
    rig.source.bytes[:] = PATTERN
    rig.queue()
    rig.finish()
    np.testing.assert_array_equal(rig.target.bytes, PATTERN)
    rig.close()


def a_copy_of_the_first_bytes_leaves_the_rest(memory: DeviceBackend) -> None:
    rig = Rig(memory)
    rig.source.bytes[:] = PATTERN
    rig.target.bytes[:] = 9
    rig.queue(600)
    rig.finish()
    np.testing.assert_array_equal(rig.target.bytes[:600], PATTERN[:600])
    assert (rig.target.bytes[600:] == 9).all()
    rig.close()


def streams_are_their_own(memory: DeviceBackend) -> None:
    rigs = [Rig(memory) for _ in range(2)]
    assert rigs[0].stream.handle != rigs[1].stream.handle
    for value, rig in enumerate(rigs, 1):
        rig.source.bytes[:] = value
        rig.queue()
    for value, rig in reversed(list(enumerate(rigs, 1))):
        rig.finish()
        assert (rig.target.bytes == value).all()
    for rig in rigs:
        rig.close()


def any_thread_may_run(memory: DeviceBackend) -> None:
    rig = Rig(memory)
    rig.source.bytes[:] = PATTERN
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with memory.current():
                rig.queue()
                rig.finish()
        except BaseException as error:  # else it would be lost with its thread
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert not failures
    np.testing.assert_array_equal(rig.target.bytes, PATTERN)
    rig.close()


def a_graph_runs_when_it_is_launched(memory: DeviceBackend) -> None:
    """And takes what is in its source by then, as often as it is launched."""
    rig = Rig(memory)
    if not memory.has_graphs:
        with pytest.raises(NotImplementedError):
            memory.capture(rig.stream, rig.queue)
        rig.close()
        return
    launch = memory.capture(rig.stream, rig.queue)
    rig.finish()
    assert not rig.target.bytes.any(), "a capture runs nothing"
    for value in (1, 2):
        rig.source.bytes[:] = value
        launch()
        rig.finish()
        assert (rig.target.bytes == value).all()
    del launch
    rig.close()


def a_failed_capture_leaves_the_stream_as_it_was(memory: DeviceBackend) -> None:
    rig = Rig(memory)
    if memory.has_graphs:

        def fail() -> None:
            rig.queue()
            raise KeyError("in the middle")

        with pytest.raises(KeyError, match="in the middle"):
            memory.capture(rig.stream, fail)
    rig.source.bytes[:] = PATTERN
    rig.queue()
    rig.finish()
    np.testing.assert_array_equal(rig.target.bytes, PATTERN)
    rig.close()


CHECKS: tuple[Callable[[DeviceBackend], None], ...] = (
    addresses_are_aligned,
    a_copy_there_and_back,
    a_copy_of_the_first_bytes_leaves_the_rest,
    streams_are_their_own,
    any_thread_may_run,
    a_graph_runs_when_it_is_launched,
    a_failed_capture_leaves_the_stream_as_it_was,
)
