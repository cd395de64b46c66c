"""kernels/eca_gate.cu, run on the host, against the op's reference in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipvit.ops import eca_gate_reference
from tests.trt_plugins.host_kernels import DTYPES, ROUNDING, error_over_scale, on_the_host
from trt_plugins.operators.eca_gate import OP
from trt_plugins.plugin_op import SCALARS, Scalar


def check(scalar: Scalar, batch: int, tokens: int, channels: int, taps: int) -> None:
    generator = torch.Generator().manual_seed(batch * 7919 + tokens)
    x = torch.randn(batch, tokens, channels, generator=generator).to(DTYPES[scalar])
    weight = torch.randn(1, 1, taps, generator=generator).to(DTYPES[scalar])
    gate = on_the_host(OP, scalar, [x, weight])
    assert error_over_scale(gate, eca_gate_reference(x.double(), weight.double())) <= ROUNDING[scalar]


@settings(max_examples=25, deadline=None)
@given(
    scalar=st.sampled_from(SCALARS),
    batch=st.integers(1, 3),
    tokens=st.integers(1, 300),
    channels=st.one_of(st.integers(1, 300), st.integers(1, 50).map(lambda n: 8 * n)),
    taps=st.sampled_from([1, 3, 5, 9]),
)
def test_any_shape(scalar: Scalar, batch: int, tokens: int, channels: int, taps: int) -> None:
    check(scalar, batch, tokens, channels, taps)


@pytest.mark.parametrize("scalar", SCALARS)
def test_vit_small(scalar: Scalar) -> None:
    check(scalar, batch=2, tokens=197, channels=384, taps=3)
