"""Every kernel on a GPU against its reference in float64. Left out unless asked for: pytest -m gpu FILE."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.trt_plugins.host_kernels import DTYPES, ROUNDING, error_over_scale
from trt_plugins.operators import ALL
from trt_plugins.plugin_op import SCALARS, PluginOp, Scalar
from trt_plugins.torch_kernels import TORCH_OPS, apply_into, kernels_in_use

pytestmark = pytest.mark.gpu
GUARD = 64  # elements before and after an output that no kernel may touch

# Shapes of the inputs: a model's own, then odd ones of every kind, then one channel and one token.
SHAPES: dict[str, list[list[tuple[int, ...]]]] = {
    "TokenDwConvGelu": [
        [(2, 14, 14, 768), (768, 1, 5, 5), (768,)],
        [(3, 13, 9, 77), (77, 1, 5, 5), (77,)],
        [(5, 7, 31, 24), (24, 1, 3, 3), (24,)],
        [(1, 2, 3, 1), (1, 1, 7, 7), (1,)],
        [(2, 128, 128, 128), (128, 1, 3, 3), (128,)],
    ],
    "EcaGate": [
        [(2, 196, 384), (1, 1, 3)],
        [(3, 197, 77), (1, 1, 5)],
        [(1, 1, 1), (1, 1, 1)],
        [(2, 16384, 128), (1, 1, 3)],
    ],
    "StaticAttention": [
        [(2, 197, 384), (6, 197, 197)],
        [(3, 131, 77), (7, 131, 131)],
        [(5, 50, 192), (3, 1, 50)],
        [(1, 1, 1), (1, 1, 1)],
        [(2, 1025, 384), (6, 1025, 1025)],
    ],
    "TokenPyramid": [
        [(2, 197, 384), (98, 196)],
        [(3, 131, 77), (37, 129)],
        [(3, 131, 77), (3, 37, 129)],
        [(1, 1, 1), (1, 1)],
        [(2, 1025, 384), (512, 1024)],
    ],
    "ReusedAttention": [
        [(2, 6, 197, 197), (2, 197, 384)],
        [(3, 7, 131, 131), (3, 131, 77)],
        [(33, 2, 64, 64), (33, 64, 64)],
        [(1, 1, 1, 1), (1, 1, 1)],
    ],
}
CASES = [
    pytest.param(op, scalar, shapes, id=f"{op.name}-{scalar}-{'-'.join('x'.join(map(str, s)) for s in shapes)}")
    for op in ALL
    for shapes in SHAPES[op.name]
    for scalar in SCALARS
]


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU, and torch built for it")
    yield
    torch.cuda.synchronize()


def drawn(op: PluginOp, shapes: list[tuple[int, ...]], scalar: Scalar) -> list[Tensor]:
    """Fresh random inputs; matrices have rows that sum to 1, as attention has."""
    inputs = [torch.randn(shape, device="cuda") for shape in shapes]
    if op.name in ("StaticAttention", "TokenPyramid", "ReusedAttention"):
        which = 0 if op.name == "ReusedAttention" else 1
        inputs[which] = inputs[which].softmax(dim=-1)
    return [tensor.to(DTYPES[scalar]) for tensor in inputs]


def reference(op: PluginOp, inputs: list[Tensor]) -> Tensor:
    return TORCH_OPS[op.name].reference(*(tensor.double() for tensor in inputs))


@pytest.mark.parametrize(("op", "scalar", "shapes"), CASES)
def test_equals_the_reference_and_writes_all_of_its_output_and_nothing_else(
    op: PluginOp, scalar: Scalar, shapes: list[tuple[int, ...]]
) -> None:
    inputs = drawn(op, shapes, scalar)
    expected = reference(op, inputs)
    room = torch.full((expected.numel() + 2 * GUARD,), torch.nan, dtype=DTYPES[scalar], device="cuda")
    output = room[GUARD : GUARD + expected.numel()].view(expected.shape)
    apply_into(op, inputs, output)
    assert error_over_scale(output, expected) <= ROUNDING[scalar]  # a NaN that is left passes no comparison
    assert room[:GUARD].isnan().all()
    assert room[-GUARD:].isnan().all()


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_a_captured_launch_reads_what_its_inputs_hold_at_replay(op: PluginOp) -> None:
    shapes = SHAPES[op.name][0]
    inputs = drawn(op, shapes, "f16")
    call = TORCH_OPS[op.name].call
    with kernels_in_use(), torch.inference_mode():
        call(*inputs)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = call(*inputs)
    for _ in range(2):
        for tensor, new in zip(inputs, drawn(op, shapes, "f16"), strict=True):
            tensor.copy_(new)
        output.fill_(torch.nan)
        graph.replay()
        assert error_over_scale(output, reference(op, inputs)) <= ROUNDING["f16"]


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_the_first_launch_may_be_inside_a_capture(op: PluginOp) -> None:
    fresh = dataclasses.replace(
        op, constants=lambda shapes, attributes: {**op.constants(shapes, attributes), "FRESH": 1}
    )
    inputs = drawn(op, SHAPES[op.name][0], "bf16")
    expected = reference(op, inputs)
    output = torch.full(expected.shape, torch.nan, dtype=torch.bfloat16, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        apply_into(fresh, inputs, output)
    graph.replay()
    assert error_over_scale(output, expected) <= ROUNDING["bf16"]


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_a_compiled_call_is_the_kernels(op: PluginOp) -> None:
    inputs = drawn(op, SHAPES[op.name][0], "f16")
    with kernels_in_use(), torch.inference_mode():
        compiled = torch.compile(lambda *tensors: 2 * TORCH_OPS[op.name].call(*tensors), fullgraph=True)
        assert error_over_scale(compiled(*inputs) / 2, reference(op, inputs)) <= 2 * ROUNDING["f16"]


def test_a_stream_of_the_callers_is_the_one_that_is_used() -> None:
    op = next(op for op in ALL if op.name == "EcaGate")
    inputs = drawn(op, [(64, 1024, 384), (1, 1, 3)], "f32")
    expected = reference(op, inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    late = torch.empty_like(inputs[0])
    with kernels_in_use(), torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # cycles: the copy below is not done when the kernel is launched
        late.copy_(inputs[0])
        output = TORCH_OPS[op.name].call(late, inputs[1])
    stream.synchronize()
    assert error_over_scale(output, expected) <= ROUNDING["f32"]
