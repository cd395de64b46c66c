"""reused_attention against its sums written out, finite differences, and torch's own checks of a custom op."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skipvit.complexity import count_macs
from skipvit.ops import reused_attention, reused_attention_reference

OP = torch.ops.skipvit.reused_attention.default


def normal(*shape: int, dtype: torch.dtype = torch.float64, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_(grad)


def by_loops(attention: Tensor, v: Tensor) -> Tensor:
    """The definition, one output row of one head of one image at a time."""
    B, h, N, _ = attention.shape
    d = v.shape[2] // h
    y = torch.zeros_like(v)
    for b in range(B):
        for head in range(h):
            own = slice(head * d, (head + 1) * d)
            for i in range(N):
                for j in range(N):
                    y[b, i, own] += attention[b, head, i, j] * v[b, j, own]
    return y


class SelfMixing(nn.Module):
    """Tokens whose own products are the attention, as a model computes it before an other layer reuses it."""

    def forward(self, v: Tensor) -> Tensor:
        heads = v.unflatten(2, (2, -1)).transpose(1, 2)  # (B, N, C) -> (B, 2, N, d)
        return reused_attention((heads @ heads.mT).softmax(dim=-1), v)


@settings(max_examples=40, deadline=None)
@given(B=st.integers(0, 3), N=st.integers(1, 6), h=st.integers(1, 4), d=st.integers(1, 4))
def test_is_its_definition(B: int, N: int, h: int, d: int) -> None:
    attention, v = normal(B, h, N, N), normal(B, N, h * d)
    y = reused_attention(attention, v)
    assert y.is_contiguous()
    torch.testing.assert_close(y, by_loops(attention, v), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reused_attention_reference(attention, v), y, rtol=1e-12, atol=1e-12)


def test_is_softmax_attention_with_its_own_matrix() -> None:
    """Against timm's own route: scaled_dot_product_attention over (B, h, N, d), heads joined afterwards."""
    q, k, v = (normal(3, 2, 5, 4) + i for i in range(3))
    expected = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    matrix = (q @ k.mT / 2).softmax(dim=-1)
    torch.testing.assert_close(reused_attention(matrix, v.transpose(1, 2).flatten(2)), expected)


@pytest.mark.parametrize(("grad_attention", "grad_v"), [(True, True), (True, False), (False, True)])
def test_gradients(grad_attention: bool, grad_v: bool) -> None:
    inputs = (normal(2, 3, 4, 4, grad=grad_attention), normal(2, 4, 6, grad=grad_v))
    assert torch.autograd.gradcheck(reused_attention, inputs)
    assert torch.autograd.gradgradcheck(reused_attention, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_keeps_the_dtype(dtype: torch.dtype) -> None:
    attention, v = normal(2, 4, 5, 5, dtype=dtype).softmax(dim=-1), normal(2, 5, 8, dtype=dtype)
    y = reused_attention(attention, v)
    assert y.dtype == dtype
    torch.testing.assert_close(y, by_loops(attention.double(), v.double()).to(dtype))


def test_autocast_changes_nothing_forward_or_backward() -> None:
    attention, v = normal(2, 4, 5, 5, dtype=torch.float32, grad=True), normal(2, 5, 8, dtype=torch.float32, grad=True)
    expected = torch.autograd.grad(reused_attention(attention, v).sum(), (attention, v))
    with torch.autocast("cpu", torch.bfloat16):
        y = reused_attention(attention, v)
        found = torch.autograd.grad(y.sum(), (attention, v))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, reused_attention_reference(attention, v))
    torch.testing.assert_close(found, expected)


def test_a_view_is_as_good_as_a_copy() -> None:
    """v as a slice of a packed product."""
    packed, attention = normal(2, 5, 3 * 8), normal(2, 2, 5, 5)
    v = packed[:, :, 16:]
    assert torch.equal(reused_attention(attention, v), reused_attention(attention, v.contiguous()))


def test_opcheck() -> None:
    torch.library.opcheck(OP, (normal(2, 3, 4, 4, grad=True), normal(2, 4, 6, grad=True)))


def test_exports_with_a_dynamic_batch() -> None:
    program = torch.export.export(
        SelfMixing(), (normal(2, 5, 8),), dynamic_shapes={"v": {0: torch.export.Dim("batch", min=1)}}
    )
    assert OP in [node.target for node in program.graph.nodes]
    for batch in (1, 7):
        v = normal(batch, 5, 8)
        torch.testing.assert_close(program.module()(v), SelfMixing()(v))


def test_compiles_without_a_graph_break() -> None:
    attention, v = normal(2, 3, 4, 4, grad=True), normal(2, 4, 6, grad=True)
    compiled = torch.compile(reused_attention, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(attention, v), by_loops(attention, v))
    compiled(attention, v).sum().backward()
    assert attention.grad is not None
    assert v.grad is not None


def test_macs_are_n_times_n_times_c() -> None:
    assert count_macs(SelfMixing(), normal(4, 5, 6)) == 2 * 5 * 5 * 6  # the matrix itself, and its product with v


@pytest.mark.parametrize(
    ("attention", "v", "match"),
    [
        ((2, 5, 5), (1, 5, 8), r"attention \(B, h, N, N\) and values \(B, N, C\), got \(2, 5, 5\) and \(1, 5, 8\)"),
        ((1, 2, 5, 5), (5, 8), r"got \(1, 2, 5, 5\) and \(5, 8\)"),
        ((1, 2, 4, 5), (1, 5, 8), r"got \(1, 2, 4, 5\)"),
        ((1, 2, 5, 5), (1, 6, 8), "attention for 1 x 5 tokens and values for 1 x 6; both must come from the same"),
        ((2, 2, 5, 5), (1, 5, 8), "attention for 2 x 5 tokens and values for 1 x 5"),
        ((1, 3, 5, 5), (1, 5, 8), "8 channels for 3 heads; the head count must divide"),
        ((1, 0, 5, 5), (1, 5, 8), "8 channels for 0 heads"),
    ],
)
def test_names_what_is_wrong(attention: tuple[int, ...], v: tuple[int, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        reused_attention(torch.zeros(attention), torch.zeros(v))


def test_names_the_cast_that_is_missing() -> None:
    with pytest.raises(ValueError, match=r"cast the attention to torch\.float16"):
        reused_attention(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.float16))
