"""kernels/token_dwconv_gelu.cu, run on the host, against the op's reference in float64."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipvit.ops import token_dwconv_gelu_reference
from tests.trt_plugins.host_kernels import DTYPES, ROUNDING, error_over_scale, on_the_host
from trt_plugins.operators.token_dwconv_gelu import OP
from trt_plugins.plugin_op import SCALARS, Scalar

KERNEL_SIZES: dict[Scalar, list[int]] = {"f32": [1, 7], "f16": [3, 5], "bf16": [9]}  # one build each


def inputs(scalar: Scalar, shape: tuple[int, int, int, int], r: int) -> list[Tensor]:
    """Tokens of a mean far from zero, so that a border read as anything but zeros shows."""
    generator = torch.Generator().manual_seed(sum(shape) + r)
    channels = shape[3]
    x = torch.randn(shape, generator=generator) + 1
    weight = torch.randn(channels, 1, r, r, generator=generator) / r
    bias = torch.randn(channels, generator=generator)
    return [tensor.to(DTYPES[scalar]) for tensor in (x, weight, bias)]


def check(scalar: Scalar, shape: tuple[int, int, int, int], r: int) -> None:
    tensors = inputs(scalar, shape, r)
    found = on_the_host(OP, scalar, tensors, {"channels": shape[3]})
    assert error_over_scale(found, token_dwconv_gelu_reference(*(t.double() for t in tensors))) <= ROUNDING[scalar]


@pytest.mark.parametrize(("scalar", "r"), [(scalar, r) for scalar in SCALARS for r in KERNEL_SIZES[scalar]])
def test_any_shape(scalar: Scalar, r: int) -> None:
    @settings(max_examples=12, deadline=None)
    @given(
        batch=st.integers(1, 2),
        height=st.integers(1, 40),
        width=st.integers(1, 40),
        channels=st.one_of(st.integers(1, 90), st.integers(1, 12).map(lambda n: 8 * n)),
    )
    @example(batch=1, height=17, width=17, channels=72)
    @example(batch=2, height=1, width=1, channels=1)
    def run(batch: int, height: int, width: int, channels: int) -> None:
        check(scalar, (batch, height, width, channels), r)

    run()
