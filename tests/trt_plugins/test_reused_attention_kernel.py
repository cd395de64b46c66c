"""kernels/reused_attention.cu, run on the host, against the op's reference in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipvit.ops import reused_attention_reference
from tests.trt_plugins.host_kernels import DTYPES, ROUNDING, error_over_scale, on_the_host
from trt_plugins.operators.reused_attention import OP
from trt_plugins.plugin_op import SCALARS, Scalar


def check(scalar: Scalar, batch: int, tokens: int, heads: int, width: int) -> None:
    generator = torch.Generator().manual_seed(batch * 7919 + tokens)
    v = torch.randn(batch, tokens, heads * width, generator=generator).to(DTYPES[scalar])
    attention = torch.randn(batch, heads, tokens, tokens, generator=generator).softmax(-1).to(DTYPES[scalar])
    y = on_the_host(OP, scalar, [attention, v], {"num_heads": heads})
    assert error_over_scale(y, reused_attention_reference(attention.double(), v.double())) <= ROUNDING[scalar]


@settings(max_examples=60, deadline=None)
@given(
    scalar=st.sampled_from(SCALARS),
    batch=st.integers(1, 3),
    tokens=st.integers(1, 100),
    heads=st.integers(1, 3),
    width=st.one_of(st.integers(1, 70), st.sampled_from([16, 32, 48, 64])),
)
def test_any_shape(scalar: Scalar, batch: int, tokens: int, heads: int, width: int) -> None:
    check(scalar, batch, tokens, heads, width)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("tokens", [64, 197])  # windows of a denoiser, ViT-S
def test_usual_shapes(scalar: Scalar, tokens: int) -> None:
    check(scalar, batch=2, tokens=tokens, heads=2, width=32)
