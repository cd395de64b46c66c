"""Ops against their formulas written out by hand, finite differences, and torch's own checks of a custom op."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipvit.ops import eca_gate, eca_gate_reference, token_dwconv_gelu, token_dwconv_gelu_reference


def dwconv_gelu_by_loops(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The definition, one output at a time: sum over the r x r neighbours inside the grid, then x * Φ(x)."""
    B, h, w, C = x.shape
    r = weight.shape[-1]
    y = torch.zeros_like(x)
    for i in range(h):
        for j in range(w):
            total = bias.expand(B, C).clone()
            for di in range(r):
                for dj in range(r):
                    ii, jj = i + di - r // 2, j + dj - r // 2
                    if 0 <= ii < h and 0 <= jj < w:
                        total += x[:, ii, jj] * weight[:, 0, di, dj]
            y[:, i, j] = total * 0.5 * (1 + torch.erf(total / math.sqrt(2)))
    return y


def eca_by_loops(x: Tensor, weight: Tensor) -> Tensor:
    B, n, C = x.shape
    k = weight.shape[-1]
    pooled = x.sum(dim=1) / n
    y = torch.zeros(B, 1, C, dtype=x.dtype)
    for c in range(C):
        for d in range(k):
            if 0 <= c + d - k // 2 < C:
                y[:, 0, c] += pooled[:, c + d - k // 2] * weight[0, 0, d]
    return 1 / (1 + torch.exp(-y))


def tokens(*shape: int, dtype: torch.dtype = torch.float64, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_(grad)


@settings(max_examples=25, deadline=None)
@given(
    B=st.integers(1, 3),
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    C=st.integers(1, 9),
    r=st.sampled_from([1, 3, 5, 7]),
)
def test_token_dwconv_gelu_is_its_definition(B: int, h: int, w: int, C: int, r: int) -> None:
    x, weight, bias = tokens(B, h, w, C), tokens(C, 1, r, r), tokens(C)
    expected = dwconv_gelu_by_loops(x, weight, bias)
    torch.testing.assert_close(token_dwconv_gelu(x, weight, bias), expected, rtol=1e-11, atol=1e-11)
    elsewhere = x.transpose(1, 2).contiguous().transpose(1, 2)  # the same tokens, laid out otherwise
    torch.testing.assert_close(token_dwconv_gelu(elsewhere, weight, bias), expected, rtol=1e-11, atol=1e-11)


@settings(max_examples=25, deadline=None)
@given(B=st.integers(1, 3), n=st.integers(1, 12), C=st.integers(1, 12), k=st.sampled_from([1, 3, 5]))
def test_eca_gate_is_its_definition(B: int, n: int, C: int, k: int) -> None:
    x, weight = tokens(B, n, C), tokens(1, 1, k)
    torch.testing.assert_close(eca_gate(x, weight), eca_by_loops(x, weight), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("h", "w", "r"), [(3, 5, 3), (4, 2, 5), (1, 1, 3)])
def test_token_dwconv_gelu_gradients(h: int, w: int, r: int) -> None:
    x, weight, bias = tokens(2, h, w, 3, grad=True), tokens(3, 1, r, r, grad=True), tokens(3, grad=True)
    assert torch.autograd.gradcheck(token_dwconv_gelu, (x, weight, bias))
    assert torch.autograd.gradgradcheck(token_dwconv_gelu, (x, weight, bias))


def test_eca_gate_gradients() -> None:
    inputs = (tokens(2, 5, 7, grad=True), tokens(1, 1, 3, grad=True))
    assert torch.autograd.gradcheck(eca_gate, inputs)
    assert torch.autograd.gradgradcheck(eca_gate, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_ops_keep_the_dtype_and_match_the_reference(dtype: torch.dtype) -> None:
    x, weight, bias = tokens(2, 3, 4, 8, dtype=dtype), tokens(8, 1, 3, 3, dtype=dtype), tokens(8, dtype=dtype)
    y = token_dwconv_gelu(x, weight, bias)
    assert y.dtype == dtype
    assert y.is_contiguous()
    torch.testing.assert_close(y, token_dwconv_gelu_reference(x, weight, bias))
    gate = eca_gate(x.flatten(1, 2), tokens(1, 1, 3, dtype=dtype))
    assert gate.dtype == dtype
    torch.testing.assert_close(gate, eca_gate_reference(x.flatten(1, 2), tokens(1, 1, 3, dtype=dtype)))


def test_opcheck() -> None:
    x, weight, bias = tokens(2, 2, 3, 4, grad=True), tokens(4, 1, 3, 3, grad=True), tokens(4, grad=True)
    torch.library.opcheck(torch.ops.skipvit.token_dwconv_gelu.default, (x, weight, bias))
    torch.library.opcheck(
        torch.ops.skipvit.eca_gate.default, (x.flatten(1, 2).detach().requires_grad_(), tokens(1, 1, 3, grad=True))
    )


def test_only_the_gradients_asked_for_are_computed() -> None:
    x, weight, bias = tokens(1, 2, 2, 2), tokens(2, 1, 3, 3, grad=True), tokens(2)
    token_dwconv_gelu(x, weight, bias).sum().backward()
    assert weight.grad is not None
    assert x.grad is None


@pytest.mark.parametrize(
    ("x", "weight", "bias", "match"),
    [
        ((1, 5, 4), (4, 1, 3, 3), (4,), r"shape \(1, 5, 4\); it needs \(B, H, W, C\)"),
        ((1, 2, 2, 4), (4, 1, 2, 2), (4,), r"r odd, got \(4, 1, 2, 2\)"),
        ((1, 2, 2, 4), (4,), (4,), r"r odd, got \(4,\)"),
        ((1, 2, 2, 3), (4, 1, 3, 3), (4,), "got 3 channels, a weight for 4"),
        ((1, 2, 2, 4), (4, 1, 3, 3), (3,), r"a bias of \(3,\)"),
    ],
)
def test_token_dwconv_gelu_names_what_is_wrong(
    x: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        token_dwconv_gelu(torch.zeros(x), torch.zeros(weight), torch.zeros(bias))


@pytest.mark.parametrize(
    ("x", "weight", "match"),
    [((4, 4), (1, 1, 3), r"\(B, n, C\), got \(4, 4\)"), ((1, 4, 4), (1, 1, 4), r"k odd, got \(1, 1, 4\)")],
)
def test_eca_gate_names_what_is_wrong(x: tuple[int, ...], weight: tuple[int, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        eca_gate(torch.zeros(x), torch.zeros(weight))
