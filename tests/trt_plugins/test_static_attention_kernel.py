"""kernels/static_attention.cu, run on the host, against the op's reference in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipvit.ops import static_attention_reference
from tests.trt_plugins.host_kernels import DTYPES, ROUNDING, error_over_scale, on_the_host
from trt_plugins.operators.static_attention import OP
from trt_plugins.plugin_op import SCALARS, Scalar


def check(scalar: Scalar, batch: int, tokens: int, rows: int, heads: int, width: int) -> None:
    generator = torch.Generator().manual_seed(batch * 7919 + tokens)
    v = torch.randn(batch, tokens, heads * width, generator=generator).to(DTYPES[scalar])
    matrix = torch.randn(heads, rows, tokens, generator=generator).div(tokens**0.5).to(DTYPES[scalar])
    y = on_the_host(OP, scalar, [v, matrix], {"num_heads": heads})
    assert error_over_scale(y, static_attention_reference(v.double(), matrix.double())) <= ROUNDING[scalar]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(1, 100))
    check(
        data.draw(st.sampled_from(SCALARS)),
        batch=data.draw(st.integers(1, 3)),
        tokens=tokens,
        rows=data.draw(st.integers(1, tokens)),
        heads=data.draw(st.integers(1, 3)),
        width=data.draw(st.one_of(st.integers(1, 70), st.sampled_from([16, 32, 48, 64]))),
    )


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("tokens", [197, 198])
def test_vit_small(scalar: Scalar, tokens: int) -> None:
    check(scalar, batch=2, tokens=tokens, rows=tokens, heads=1, width=64)


@pytest.mark.parametrize("tokens", [261, 262])
def test_more_rows_than_a_tile(tokens: int) -> None:
    check("f16", batch=1, tokens=tokens, rows=tokens, heads=1, width=24)


def test_only_the_class_token() -> None:
    check("f16", batch=3, tokens=197, rows=1, heads=2, width=64)


@pytest.mark.parametrize("scalar", ["f16", "bf16"])
@pytest.mark.parametrize("tokens", [37, 38, 40])
def test_a_row_that_overflowed_stays_alone(scalar: Scalar, tokens: int) -> None:
    v = torch.randn(2, tokens, 16).to(DTYPES[scalar])
    matrix = torch.randn(1, tokens, tokens).to(DTYPES[scalar])
    matrix[0, 5] = torch.inf
    y = on_the_host(OP, scalar, [v, matrix], {"num_heads": 1})
    assert y.isfinite().all(dim=2).sum(dim=1).tolist() == [tokens - 1] * 2


def test_an_image_that_overflowed_stays_alone() -> None:
    v = torch.randn(3, 37, 16).half()
    v[1] = torch.inf
    y = on_the_host(OP, "f16", [v, torch.randn(1, 37, 37).half()], {"num_heads": 1})
    assert y.isfinite().all(dim=2).sum(dim=1).tolist() == [37, 0, 37]
