"""kernels/token_pyramid.cu, run on the host, against the op's reference in float64; prefix tokens to the bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipvit.ops import token_pyramid_reference
from tests.trt_plugins.host_kernels import DTYPES, ROUNDING, error_over_scale, on_the_host
from trt_plugins.operators.token_pyramid import OP
from trt_plugins.plugin_op import SCALARS, Scalar


def check(scalar: Scalar, batch: int, prefix: int, tokens: int, rows: int, channels: int, own: bool) -> None:
    generator = torch.Generator().manual_seed(batch * 7919 + tokens)
    x = torch.randn(batch, prefix + tokens, channels, generator=generator).to(DTYPES[scalar])
    x[:, :prefix] *= 1e4  # what a sum would round away stays
    shape = (batch, rows, tokens) if own else (rows, tokens)
    matrix = torch.randn(shape, generator=generator).div(tokens**0.5).to(DTYPES[scalar])
    y = on_the_host(OP, scalar, [x, matrix], {"num_prefix": prefix})
    reference = token_pyramid_reference(x.double(), matrix.double())
    assert error_over_scale(y[:, prefix:], reference[:, prefix:]) <= ROUNDING[scalar]
    assert torch.equal(y[:, :prefix], x[:, :prefix])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(1, 100))
    check(
        data.draw(st.sampled_from(SCALARS)),
        batch=data.draw(st.integers(1, 3)),
        prefix=data.draw(st.integers(0, 5)),
        tokens=tokens,
        rows=data.draw(st.integers(1, tokens)),
        channels=data.draw(st.one_of(st.integers(1, 140), st.sampled_from([64, 96, 192]))),
        own=data.draw(st.booleans()),
    )


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("own", [False, True])
def test_vit_small_from_14_to_7(scalar: Scalar, own: bool) -> None:
    check(scalar, batch=2, prefix=1, tokens=196, rows=49, channels=200, own=own)
