"""One of the batches that an engine has in flight: its stream, its buffers, and what runs each batch size."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_plugins.device_memory import DeviceBackend, DeviceBuffer, PinnedBuffer
from trt_plugins.engine_plan import EngineError

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of an engine: ``row`` is its shape without the batch, as this session runs it."""

    name: str
    dtype: np.dtype[Any]
    row: tuple[int, ...]

    def size(self, rows: int) -> int:
        """Bytes of ``rows`` rows."""
        return rows * int(np.prod(self.row, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class _Held:
    """A tensor's memory on both sides; ``array`` is the host's, for the largest batch."""

    tensor: EngineTensor
    device: DeviceBuffer
    host: PinnedBuffer
    array: Array


class Slot:
    """Everything that one batch in flight needs. One thread at a time uses it.

    Every bucket has an execution context of its own, since a graph is valid only for the shapes that its context had
    when it was captured. The contexts of a slot never run at the same time, so they share one block of scratch memory.
    """

    def __init__(
        self,
        memory: DeviceBackend,
        contexts: Mapping[int, Any],
        inputs: Sequence[EngineTensor],
        outputs: Sequence[EngineTensor],
        scratch: int,
        graphs: bool,
    ) -> None:
        """Allocates, then runs every bucket once, and captures it if ``graphs``.

        Args:
            contexts: execution context by bucket, without device memory.
            scratch: bytes that a context needs while it runs.

        Raises:
            EngineError: TensorRT refuses a shape, or fails.
        """
        self._memory = memory
        self._to_free = ExitStack()
        self._runs: dict[int, Callable[[], None]] = {}
        self._written = 0  # rows of the input buffers that are not zeros
        largest = max(contexts)
        try:
            self._stream = memory.stream()
            self._to_free.callback(memory.free, self._stream)
            self._inputs = {tensor.name: self._hold(tensor, largest) for tensor in inputs}
            self._outputs = {tensor.name: self._hold(tensor, largest) for tensor in outputs}
            self._scratch = memory.on_device(max(scratch, 256), self._stream)
            self._to_free.callback(memory.free, self._scratch)
            self._to_free.callback(self._runs.clear)
            for bucket, context in contexts.items():
                self._runs[bucket] = self._prepared(bucket, context, graphs)
        except BaseException:
            self.close()
            raise

    def _hold(self, tensor: EngineTensor, rows: int) -> _Held:
        size = tensor.size(rows)
        device = self._memory.on_device(size, self._stream)
        self._to_free.callback(self._memory.free, device)
        host = self._memory.pinned(size)
        self._to_free.callback(self._memory.free, host)
        return _Held(tensor, device, host, host.bytes.view(tensor.dtype).reshape(rows, *tensor.row))

    def _prepared(self, bucket: int, context: Any, graphs: bool) -> Callable[[], None]:
        """What queues one run of ``bucket`` rows: a graph's launch, or each step anew where there is no graph."""
        context.set_device_memory(self._scratch.address, self._scratch.size)
        for name, held in self._inputs.items():
            if not context.set_input_shape(name, (bucket, *held.tensor.row)):
                raise EngineError(f"the engine does not take {[bucket, *held.tensor.row]} as its input {name!r}")
        for name, held in {**self._inputs, **self._outputs}.items():
            context.set_tensor_address(name, held.device.address)
        for name, held in self._outputs.items():
            shape = tuple(context.get_tensor_shape(name))
            if shape != (bucket, *held.tensor.row):
                raise EngineError(f"output {name!r} of {bucket} rows is {list(shape)}, which is not a row for each")

        def queue() -> None:
            for held in self._inputs.values():
                self._memory.copy_in(held.host, held.device, held.tensor.size(bucket), self._stream)
            if not context.execute_async_v3(self._stream.handle):
                raise EngineError(f"TensorRT cannot run {bucket} rows; its log has the cause")
            for held in self._outputs.values():
                self._memory.copy_out(held.device, held.host, held.tensor.size(bucket), self._stream)

        queue()  # TensorRT allocates and loads kernels in the first run, which a capture does not allow
        self._memory.synchronize(self._stream)
        if not graphs:
            return queue
        try:
            launch = self._memory.capture(self._stream, queue)
        except Exception as error:  # some engines cannot be captured, such as those that wait inside; they run without
            logger.warning("a batch of %d runs without a CUDA graph: %s", bucket, error)
            return queue
        launch()
        self._memory.synchronize(self._stream)
        return launch

    def run(self, bucket: int, inputs: Mapping[str, Array | Sequence[Array]], rows: int) -> dict[str, Array]:
        """Runs ``rows`` rows in a batch of ``bucket``, padded with zeros.

        Whatever was there would do, were it not for a picture that the engine fails on: left over, it would fail the
        batches that come after its own. The caller has checked the inputs, and made the device current.
        """
        before, self._written = self._written, max(self._written, rows)
        for name, given in inputs.items():
            array = self._inputs[name].array
            array[rows:before] = 0
            if isinstance(given, np.ndarray):
                array[:rows] = given
            else:
                for row, values in enumerate(given):
                    array[row] = values
        self._written = rows
        self._runs[bucket]()
        self._memory.synchronize(self._stream)
        return {name: held.array[:rows].copy() for name, held in self._outputs.items()}

    def recover(self) -> None:
        """Waits out what a failed run left in the queue; raises if the GPU is lost."""
        self._memory.synchronize(self._stream)

    def close(self) -> None:
        """Frees graphs, then memory, then the stream, in the reverse order of their making."""
        self._to_free.close()
