"""pycuda.driver on a fake GPU: the calls that PycudaMemory makes, with pycuda's parameters and its context's rules."""

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.trt_plugins.fake_gpu import FakeGpu, FakeStream


class Allocation:
    """mem_alloc's result, and the base of a page-locked array."""

    def __init__(self, owner: "FakePycuda", address: int) -> None:
        self._owner, self._address = owner, address

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._owner.checked()
        if self._address:
            del self._owner.gpu.memory[self._address]
        else:
            self._owner.gpu.pinned -= 1


class Locked(np.ndarray[Any, Any]):
    """A page-locked array knows its allocation as its base."""

    allocation: Allocation

    @property
    def base(self) -> Any:
        return self.allocation


class FakePycuda(ModuleType):
    """The module. ``pushed`` is how deep the primary context is in the stack, which must be 0 in the end."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__("pycuda.driver")
        self.gpu = gpu
        self.pushed = 0
        self.started = False
        self.event_flags = SimpleNamespace(BLOCKING_SYNC=1, DISABLE_TIMING=2)
        self.Stream, self.Event, self.Device = self._stream, self._event, self._device

    def init(self) -> None:
        self.started = True

    def checked(self) -> None:
        assert self.pushed, "no context is current"

    def _device(self, ordinal: int) -> Any:
        assert self.started
        return SimpleNamespace(name=lambda: "Fake GPU", retain_primary_context=lambda: self)

    def push(self) -> None:
        self.pushed += 1

    def pop(self) -> None:
        self.pushed -= 1

    def _stream(self, flags: int = 0) -> Any:
        self.checked()
        assert flags == 1, "a stream that waits for the default one"
        made = FakeStream(self.gpu)
        return SimpleNamespace(handle=id(made), queue=made)

    def _event(self, flags: int = 0) -> Any:
        self.checked()
        assert flags == 3
        recorded: list[FakeStream] = []
        return SimpleNamespace(
            record=lambda stream: recorded.append(stream.queue), synchronize=lambda: recorded.pop().synchronize()
        )

    def mem_alloc(self, size: int) -> Allocation:
        self.checked()
        return Allocation(self, self.gpu.allocate(size))

    def pagelocked_zeros(self, shape: int, dtype: type, order: str = "C", mem_flags: int = 0) -> npt.NDArray[Any]:
        self.checked()
        self.gpu.pinned += 1
        made = np.zeros(shape, dtype).view(Locked)
        made.allocation = Allocation(self, 0)
        return made

    def memcpy_htod_async(self, dest: int, src: npt.NDArray[np.uint8], stream: Any) -> None:
        self.checked()
        at = self.gpu.at(dest, src.size)
        stream.queue.push(lambda: at.__setitem__(slice(None), np.asarray(src)))

    def memcpy_dtoh_async(self, dest: npt.NDArray[np.uint8], src: int, stream: Any) -> None:
        self.checked()
        at = self.gpu.at(src, dest.size)
        stream.queue.push(lambda: np.asarray(dest).__setitem__(slice(None), at))
