"""TensorRT's runtime on a fake GPU: as much of its API as running an engine takes, with the rules that it has.

An engine is a `Model`, its plan a name. Execution is queued on the stream and computes with NumPy on what lies in
"device" memory by then. A graph of a context whose shapes have changed since is an error, and so is scratch memory that
two contexts use at a time, an unset address, and a capture before the first run.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.trt_plugins.fake_gpu import FakeGpu, GpuLost
from trt_plugins.flavors import Tensorrt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
SCRATCH = 512


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
DataType = enum.Enum("DataType", ["FLOAT", "HALF", "BF16", "UINT8", "INT32", "INT64", "BOOL", "INT8"])
Allocation = enum.Enum("Allocation", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"])
CudaGraphStrategy = enum.Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
Specialization = enum.Enum("Specialization", ["LAZY", "EAGER", "NONE"])
EngineValidity = enum.IntEnum("EngineValidity", {"VALID": 0, "SUBOPTIMAL": 1, "INVALID": 2})
_DIAGNOSTICS = {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4, "MALFORMED_ENGINE": 32}
EngineInvalidityDiagnostics = enum.IntFlag("EngineInvalidityDiagnostics", _DIAGNOSTICS)


@dataclass
class Model:
    """What an engine computes: inputs as (dtype, smallest, usual, largest shape), outputs as (dtype, their shape)."""

    inputs: dict[str, tuple[DataType, Shape, Shape, Shape]]
    outputs: dict[str, tuple[DataType, Callable[[Shape], Shape]]]
    compute: Callable[[dict[str, Array]], dict[str, Array]]
    refusal: str = ""
    """What TensorRT logs as it refuses the plan; a plan without one is taken."""
    validity: tuple[EngineValidity, int] = (EngineValidity.VALID, 0)
    can_be_captured: bool = True
    runs_made: list[int] = field(default_factory=list)
    """Batch of each execution, as it happened."""


_NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8, "INT32": np.int32, "BF16": np.uint16}


class Context:
    def __init__(self, engine: "Engine") -> None:
        self.engine = engine
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = 0
        self._ran: set[Shape] = set()
        self._changes = 0
        engine.contexts += 1

    def __del__(self) -> None:
        self.engine.contexts -= 1

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0
        assert size >= self.engine.device_memory_size_v2
        self._scratch = memory

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        _, smallest, _, largest = self.engine.model.inputs[name]
        if len(shape) != len(smallest) or not all(
            low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
        ):
            return False
        self._changes += self._shapes.get(name) != shape
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def get_tensor_shape(self, name: str) -> Shape:
        if name in self.engine.model.inputs:
            return self._shapes[name]
        return self.engine.model.outputs[name][1](next(iter(self._shapes.values())))

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine, model = self.engine, self.engine.model
        stream = engine.gpu.streams[stream_handle]
        names = [*model.inputs, *model.outputs]
        if set(self._addresses) != set(names) or not self._scratch:
            engine.log.log(Severity.ERROR, "Not all tensors have addresses")
            return False
        shapes = {name: self.get_tensor_shape(name) for name in names}
        first = next(iter(shapes.values()))
        if stream.recording and (first not in self._ran or not model.can_be_captured):
            stream.broken_capture = True
            return False
        self._ran.add(first)
        stream.push(self._work(dict(self._addresses), shapes, self._changes))
        return True

    def _work(self, addresses: Mapping[str, int], shapes: Mapping[str, Shape], changes: int) -> Callable[[], None]:
        engine, model = self.engine, self.engine.model

        def array(name: str, kind: DataType) -> Array:
            dtype = np.dtype(_NUMPY[kind.name])
            size = int(np.prod(shapes[name])) * dtype.itemsize
            return engine.gpu.at(addresses[name], size).view(dtype).reshape(shapes[name])

        def work() -> None:
            if changes != self._changes:
                raise RuntimeError("this graph's context has other shapes by now")
            scratch = engine.gpu.at(self._scratch, SCRATCH)
            scratch[:] = token = engine.next_token()
            model.runs_made.append(next(iter(shapes.values()))[0])
            results = model.compute({name: array(name, kind) for name, (kind, *_) in model.inputs.items()})
            for name, (kind, _) in model.outputs.items():
                array(name, kind)[...] = results[name]
            if not (scratch == token).all():
                raise RuntimeError("two contexts used the same scratch memory")

        return work


class Config:
    """IRuntimeConfig, of TensorRT-RTX."""

    def __init__(self) -> None:
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = Specialization.LAZY
        self.allocation = Allocation.STATIC
        self.cache: object = None

    def set_execution_context_allocation_strategy(self, strategy: Allocation) -> None:
        self.allocation = strategy

    def create_runtime_cache(self) -> object:
        return object()

    def set_runtime_cache(self, cache: object) -> bool:
        self.cache = cache
        return True


class Engine:
    def __init__(self, model: Model, gpu: FakeGpu, log: ILogger) -> None:
        self.model, self.gpu, self.log = model, gpu, log
        self.contexts = 0
        self.device_memory_size_v2 = SCRATCH
        self.num_optimization_profiles = 1
        self.configs: list[Config] = []
        self._token = 0

    def next_token(self) -> int:
        self._token = (self._token + 1) % 200
        return self._token

    @property
    def num_io_tensors(self) -> int:
        return len(self.model.inputs) + len(self.model.outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self.model.inputs, *self.model.outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.model.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return (self.model.inputs.get(name) or self.model.outputs[name])[0]

    def get_tensor_shape(self, name: str) -> Shape:
        if name in self.model.outputs:
            return (-1,)
        _, smallest, _, largest = self.model.inputs[name]
        return tuple(low if low == high else -1 for low, high in zip(smallest, largest, strict=True))

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Shape]:
        assert profile_index == 0
        return list(self.model.inputs[name][1:])

    def create_runtime_config(self) -> Config:
        self.configs.append(Config())
        return self.configs[-1]

    def create_execution_context(self, chosen: Allocation | Config) -> Context:
        allocation = chosen.allocation if isinstance(chosen, Config) else chosen
        assert allocation is Allocation.USER_MANAGED, "its scratch memory would not be the caller's"
        return Context(self)


def fake_tensorrt(gpu: FakeGpu, models: Mapping[bytes, Model], flavor: str = "tensorrt") -> Tensorrt:
    """A TensorRT whose plans are the keys of ``models``, with what each flavor's module has."""

    class Runtime:
        def __init__(self, log: ILogger) -> None:
            self._log = log

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            model = models.get(data)
            if model is None or model.refusal:
                said = (
                    model.refusal if model else "Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed"
                )
                self._log.log(Severity.ERROR, said)
                return None
            return Engine(model, gpu, self._log)

    module = SimpleNamespace(
        ILogger=ILogger,
        Runtime=Runtime,
        TensorIOMode=TensorIOMode,
        DataType=DataType,
        ExecutionContextAllocationStrategy=Allocation,
    )
    if flavor == "tensorrt-rtx":

        class RtxRuntime(Runtime):
            def get_engine_validity(self, buffer: bytes) -> tuple[EngineValidity, int]:
                return models[buffer].validity if buffer in models else (EngineValidity.INVALID, 32)

        module.Runtime = RtxRuntime
        module.EngineValidity = EngineValidity
        module.EngineInvalidityDiagnostics = EngineInvalidityDiagnostics
        module.CudaGraphStrategy = CudaGraphStrategy
        module.DynamicShapesKernelSpecializationStrategy = Specialization
    return Tensorrt(module, flavor, "9.9.9")  # type: ignore[arg-type]


def classifier(largest: int = 8, smallest: int = 1, size: int = 4) -> Model:
    """uint8 pixels (B, size, size, 3) to float32 (B, 3): each row's mean, its largest value, and a constant."""
    row = (size, size, 3)

    def compute(inputs: dict[str, Array]) -> dict[str, Array]:
        flat = inputs["pixels"].reshape(len(inputs["pixels"]), -1)
        if (flat == 66).all(axis=1).any():
            raise ValueError("a kernel failed")
        if (flat == 99).all(axis=1).any():
            raise GpuLost("an illegal memory access was encountered")
        return {"probabilities": np.stack([flat.mean(axis=1), flat.max(axis=1), np.full(len(flat), 7)], axis=1)}

    return Model(
        {"pixels": (DataType.UINT8, (smallest, *row), (max(smallest, largest // 2), *row), (largest, *row))},
        {"probabilities": (DataType.FLOAT, lambda shape: (shape[0], 3))},
        compute,
    )


def denoiser(largest: int = 4, sides: tuple[int, int, int] = (8, 16, 32), name: str = "pixels") -> Model:
    """uint8 tiles (B, H, W, 3) with H and W of ``sides``' smallest to largest, to their negative."""
    small, usual, large = sides
    return Model(
        {name: (DataType.UINT8, (1, small, small, 3), (2, usual, usual, 3), (largest, large, large, 3))},
        {"denoised": (DataType.UINT8, lambda shape: shape)},
        lambda inputs: {"denoised": 255 - inputs[name]},
    )


def expected(pixels: Array) -> Array:
    """What `classifier` makes of a batch, computed apart from it."""
    flat = pixels.reshape(len(pixels), -1)
    rows = [[float(sum(map(int, row))) / row.size, float(max(row)), 7.0] for row in flat]
    return np.array(rows, np.float32)
