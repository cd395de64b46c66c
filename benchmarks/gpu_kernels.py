"""Our kernels on a GPU: first against float64, then timed beside the copy of as many bytes and PyTorch's own ways.

The floor of a kernel that waits for memory is a copy: the fewest bytes it can move are its inputs read once and its
output written once. Every call of a candidate goes through many sets of inputs, more than the GPU's cache holds.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_cases import Case
from benchmarks.gpu_clock import Clock
from benchmarks.turns import in_turns, speedup
from trt_plugins.operators import ALL
from trt_plugins.plugin_op import PluginOp, Scalar
from trt_plugins.torch_kernels import DTYPES, TORCH_OPS, apply, apply_into

PACKAGES = ("torch", "triton", "cuda-bindings", "cuda-core", "nvidia-cudnn-cu13", "nvidia-cublas", "numpy")
KEYS = ("op", "where", "dtype", "shapes")
# Largest difference from float64 over the larger of 1 and the largest value: what rounding of a result near it gives.
LIMITS: dict[Scalar, float] = {"f32": 4e-6, "f16": 2.0**-11 + 4e-6, "bf16": 2.0**-8 + 4e-6}
_OPS = {op.name: op for op in ALL}
_MOST_SETS, _TIMES_CACHE = 256, 3
Inputs = list[Tensor]


def measure(case: Case, clock: Clock, rounds: int) -> dict[str, object]:
    """One row. A kernel that is wrong is not timed: its row says so, and has no figures."""
    op = _OPS[case.op]
    error = error_of(op, drawn(case, clock.device), case.per_image)
    row: dict[str, object] = {
        **dict(zip(KEYS, key_of(case), strict=True)),
        "max_error": f"{error:.1e}",
        "correct": "yes" if error <= LIMITS[case.scalar] else "NO",  # NaN is not below the limit
    }
    return {**row, **(_figures(op, case, clock, rounds) if row["correct"] == "yes" else _NO_FIGURES)}


def key_of(case: Case) -> tuple[str, ...]:
    """What tells a case's row from others: its values of `KEYS`."""
    dtype = str(DTYPES[case.scalar]).removeprefix("torch.")
    return case.op, case.where, dtype, " ".join("x".join(map(str, shape)) for shape in case.shapes)


def drawn(case: Case, device: torch.device) -> Inputs:
    """Fresh random inputs; attention and pyramids have rows that sum to 1."""
    inputs = [torch.randn(shape, device=device) for shape in case.shapes]
    if case.weights is not None:
        inputs[case.weights] = inputs[case.weights].softmax(dim=-1)
    return [tensor.to(DTYPES[case.scalar]) for tensor in inputs]


def error_of(op: PluginOp, inputs: Inputs, per_image: Sequence[bool]) -> float:
    """Error of a kernel's first and last image over scale; an element that was not written makes it NaN."""
    shapes = [tuple(tensor.shape) for tensor in inputs]
    shape = op.output_shape(shapes, TORCH_OPS[op.name].attributes(shapes))
    output = torch.full(shape, torch.nan, dtype=inputs[0].dtype, device=inputs[0].device)
    apply_into(op, inputs, output)
    if not torch.isfinite(output).all():
        return math.nan
    ends = [0, shape[0] - 1]
    chosen = [tensor[ends] if batched else tensor for tensor, batched in zip(inputs, per_image, strict=True)]
    reference = TORCH_OPS[op.name].reference(*(tensor.double() for tensor in chosen))
    return float((output[ends].double() - reference).abs().max() / reference.abs().max().clamp_min(1.0))


def _figures(op: PluginOp, case: Case, clock: Clock, rounds: int) -> dict[str, object]:
    first = drawn(case, clock.device)
    written = apply(op, first)
    moved = sum(tensor.nbytes for tensor in (*first, written))
    count = min(_MOST_SETS, max(2, math.ceil(_TIMES_CACHE * clock.cache_bytes / moved)))
    sets = [first, *(drawn(case, clock.device) for _ in range(count - 1))]
    with torch.inference_mode():
        candidates = _candidates(op, sets, moved)
        readings = {name: clock.readings(call) for name, call in candidates.items()}
        times = in_turns(readings, rounds, f"{case.op} {case.where} {case.scalar}")
    own = times["skipvit"]
    return {
        "mbytes": round(moved / 1e6, 3),
        "us": round(1e6 * statistics.median(own) / count, 3),
        "gbytes_per_s": round(moved * count / statistics.median(own) / 1e9, 1),
        "percent_of_copy": round(100 * speedup(times["copy"], own), 1),
        **{f"over_{name}": round(speedup(times[name], own), 3) for name in ("eager", "compiled", "library")},
        "input_sets": count,
        "rounds": rounds,
    }


_NO_FIGURES: dict[str, object] = dict.fromkeys(
    [
        "mbytes",
        "us",
        "gbytes_per_s",
        "percent_of_copy",
        "over_eager",
        "over_compiled",
        "over_library",
        "input_sets",
        "rounds",
    ],
    "",
)


def _candidates(op: PluginOp, sets: list[Inputs], moved: int) -> dict[str, Callable[[], Any]]:
    """What is timed; ``library`` is the op's own best use of cuDNN or cuBLAS, which it is without our kernel."""
    names = TORCH_OPS[op.name]
    backend = "inductor" if sets[0][0].is_cuda else "eager"  # on a CPU only the program is tested
    compiled = torch.compile(names.reference, backend=backend, dynamic=False)
    sources = [torch.ones(moved // 2, dtype=torch.uint8, device=sets[0][0].device).random_() for _ in sets]
    # Outputs are kept until all sets are through: each call writes memory of its own, as it would in a model.
    return {
        "skipvit": lambda: [apply(op, inputs) for inputs in sets],
        "copy": lambda: [source.clone() for source in sources],
        "eager": lambda: [names.reference(*inputs) for inputs in sets],
        "compiled": lambda: [compiled(*inputs) for inputs in sets],
        "library": lambda: [names.call(*inputs) for inputs in sets],
    }
