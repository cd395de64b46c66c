"""What an engine says of itself: its inputs and outputs, the batches it takes, and how its contexts are made."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trt_plugins.engine_plan import EngineError
from trt_plugins.engine_slot import EngineTensor

_PROFILE = 0  # an engine of ours has one
_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


def find_inputs(engine: Any, module: Any, rows: Mapping[str, tuple[int, ...]]) -> list[EngineTensor]:
    """The inputs in the engine's order; of one with several sizes, ``rows`` has the one to use, else the usual one.

    Raises:
        EngineError: a size is outside the profile, or ``rows`` names no input.
    """
    names = _names(engine, module, "INPUT")
    unknown = sorted(set(rows) - set(names))
    if unknown or not names:
        raise EngineError(f"the engine has inputs {names}, not {unknown}")
    found = []
    for name in names:
        smallest, usual, largest = _profile(engine, name)
        row = tuple(rows.get(name, usual[1:]))
        if len(row) != len(usual) - 1 or not all(
            low <= size <= high for low, size, high in zip(smallest[1:], row, largest[1:], strict=True)
        ):
            raise EngineError(
                f"input {name!r} takes rows of {list(smallest[1:])} to {list(largest[1:])}, not {list(row)}; build the "
                "engine for that size"
            )
        found.append(EngineTensor(name, _dtype(engine, name), row))
    return found


def buckets_of(engine: Any, module: Any, max_batch: int | None) -> tuple[int, ...]:
    """Batch sizes to run: powers of two within the profile, and its largest.

    Raises:
        EngineError: the inputs have no batch size in common, or ``max_batch`` is below the smallest.
    """
    profiles = [_profile(engine, name) for name in _names(engine, module, "INPUT")]
    smallest = max(profile[0][0] for profile in profiles)
    largest = min(profile[2][0] for profile in profiles)
    wanted = largest if max_batch is None else min(largest, max_batch)
    if not 1 <= smallest <= wanted:
        raise EngineError(f"the engine takes batches of {smallest} to {largest}, not of up to {wanted}")
    return tuple(sorted({smallest, wanted, *(2**k for k in range(31) if smallest <= 2**k <= wanted)}))


class ContextMaker:
    """Makes execution contexts that are given their scratch memory. ``captures``: whether they make graphs themselves.

    TensorRT-RTX compiles kernels for a shape when it first sees it, and knows when it is worth capturing; its contexts
    share what was compiled.
    """

    def __init__(self, engine: Any, module: Any) -> None:
        self._engine = engine
        self._strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
        self.captures = False
        self._config: Any = None
        if not hasattr(module, "CudaGraphStrategy"):
            return
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._strategy)
        config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if hasattr(module, "DynamicShapesKernelSpecializationStrategy"):
            # The first run of each bucket waits for its kernels, so that none does when requests come.
            eager = module.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
        if hasattr(config, "create_runtime_cache"):
            config.set_runtime_cache(config.create_runtime_cache())
        self._config, self.captures = config, True

    def __call__(self) -> Any:
        """A new context.

        Raises:
            EngineError: TensorRT refuses, as a rule for want of memory.
        """
        chosen = self._strategy if self._config is None else self._config
        context = self._engine.create_execution_context(chosen)
        if context is None:
            raise EngineError("TensorRT makes no execution context; the GPU may be out of memory")
        return context


def find_outputs(
    engine: Any, module: Any, maker: ContextMaker, inputs: Sequence[EngineTensor], batch: int
) -> list[EngineTensor]:
    """The outputs in the engine's order, with the rows that they have for ``inputs``.

    Raises:
        EngineError: an output has no batch, or its size depends on the data.
    """
    context = maker()
    for tensor in inputs:
        context.set_input_shape(tensor.name, (batch, *tensor.row))
    found = []
    for name in _names(engine, module, "OUTPUT"):
        shape = tuple(context.get_tensor_shape(name))
        if not shape or shape[0] != batch or min(shape) < 1:
            raise EngineError(f"output {name!r} is {list(shape)} for a batch of {batch}; needed is a row for each")
        found.append(EngineTensor(name, _dtype(engine, name), shape[1:]))
    return found


def _names(engine: Any, module: Any, mode: str) -> list[str]:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return [name for name in names if engine.get_tensor_mode(name) == getattr(module.TensorIOMode, mode)]


def _profile(engine: Any, name: str) -> tuple[tuple[int, ...], ...]:
    """Smallest, usual and largest shape; those of an input of one size are its own."""
    fixed = tuple(engine.get_tensor_shape(name))
    if min(fixed, default=0) >= 0:
        return fixed, fixed, fixed
    return tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(name, _PROFILE))


def _dtype(engine: Any, name: str) -> np.dtype[Any]:
    kind = engine.get_tensor_dtype(name).name
    if kind not in _DTYPES:
        raise EngineError(
            f"{name!r} is {kind}, of which NumPy has no arrays; export the model with fp32 in- and outputs"
        )
    return np.dtype(_DTYPES[kind])
