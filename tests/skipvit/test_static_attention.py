"""static_attention against its sums written out, finite differences, and torch's own checks of a custom op."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skipvit.complexity import count_macs
from skipvit.ops import static_attention, static_attention_reference

OP = torch.ops.skipvit.static_attention.default


def normal(*shape: int, dtype: torch.dtype = torch.float64, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_(grad)


def by_loops(v: Tensor, matrix: Tensor) -> Tensor:
    """The definition, one output row of one head at a time."""
    h, M, N = matrix.shape
    d = v.shape[2] // h
    y = torch.zeros(v.shape[0], M, v.shape[2], dtype=v.dtype)
    for head in range(h):
        own = slice(head * d, (head + 1) * d)
        for i in range(M):
            for j in range(N):
                y[:, i, own] += matrix[head, i, j] * v[:, j, own]
    return y


class Attend(nn.Module):
    """An op with a constant matrix, as a model holds it."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, v: Tensor) -> Tensor:
        return static_attention(v, self.matrix)


@settings(max_examples=40, deadline=None)
@given(B=st.integers(0, 3), N=st.integers(1, 6), h=st.integers(1, 4), d=st.integers(1, 4), data=st.data())
def test_is_its_definition(B: int, N: int, h: int, d: int, data: st.DataObject) -> None:
    v, matrix = normal(B, N, h * d), normal(h, data.draw(st.integers(1, N)), N)
    y = static_attention(v, matrix)
    assert y.is_contiguous()
    torch.testing.assert_close(y, by_loops(v, matrix), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(static_attention_reference(v, matrix), y, rtol=1e-12, atol=1e-12)


def test_is_softmax_attention_when_every_image_has_the_same_matrix() -> None:
    """Against timm's own route: scaled_dot_product_attention over (B, h, N, d), heads joined afterwards."""
    q, k, v = (normal(3, 2, 5, 4) for _ in range(3))
    q, k = q[:1].expand(3, -1, -1, -1), k[:1].expand(3, -1, -1, -1)
    expected = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    matrix = (q[0] @ k[0].mT / 2).softmax(dim=-1)
    torch.testing.assert_close(static_attention(v.transpose(1, 2).flatten(2), matrix), expected)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(("grad_v", "grad_matrix"), [(True, True), (True, False), (False, True)])
def test_gradients(rows: int, grad_v: bool, grad_matrix: bool) -> None:
    inputs = (normal(2, 4, 6, grad=grad_v), normal(3, rows, 4, grad=grad_matrix))
    assert torch.autograd.gradcheck(static_attention, inputs)
    assert torch.autograd.gradgradcheck(static_attention, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_keeps_the_dtype(dtype: torch.dtype) -> None:
    v, matrix = normal(2, 5, 8, dtype=dtype), normal(4, 5, 5, dtype=dtype).softmax(dim=-1)
    y = static_attention(v, matrix)
    assert y.dtype == dtype
    torch.testing.assert_close(y, by_loops(v.double(), matrix.double()).to(dtype))


def test_autocast_changes_nothing_forward_or_backward() -> None:
    v, matrix = normal(2, 5, 8, dtype=torch.float32, grad=True), normal(4, 5, 5, dtype=torch.float32, grad=True)
    expected = torch.autograd.grad(static_attention(v, matrix).sum(), (v, matrix))
    with torch.autocast("cpu", torch.bfloat16):
        y = static_attention(v, matrix)
        found = torch.autograd.grad(y.sum(), (v, matrix))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, static_attention_reference(v, matrix))
    torch.testing.assert_close(found, expected)


def test_a_view_is_as_good_as_a_copy() -> None:
    """v as a slice of a packed qkv product."""
    packed, matrix = normal(2, 5, 3 * 8), normal(2, 5, 5)
    v = packed[:, :, 16:]
    assert torch.equal(static_attention(v, matrix), static_attention(v.contiguous(), matrix))


@pytest.mark.parametrize("rows", [1, 4])
def test_opcheck(rows: int) -> None:
    torch.library.opcheck(OP, (normal(2, 4, 6, grad=True), normal(3, rows, 4, grad=True)))


def test_exports_with_a_dynamic_batch() -> None:
    program = torch.export.export(
        Attend(normal(2, 5, 5)), (normal(2, 5, 8),), dynamic_shapes={"v": {0: torch.export.Dim("batch", min=1)}}
    )
    assert [node.target for node in program.graph.nodes if node.op == "call_function"] == [OP]
    for batch in (1, 7):
        v = normal(batch, 5, 8)
        torch.testing.assert_close(program.module()(v), by_loops(v, program.state_dict["matrix"]))


def test_compiles_without_a_graph_break() -> None:
    v, matrix = normal(2, 4, 6, grad=True), normal(3, 4, 4, grad=True)
    compiled = torch.compile(static_attention, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(v, matrix), by_loops(v, matrix))
    compiled(v, matrix).sum().backward()
    assert v.grad is not None
    assert matrix.grad is not None


def test_macs_are_n_times_m_times_c() -> None:
    assert count_macs(Attend(normal(3, 2, 5)), normal(4, 5, 6)) == 5 * 2 * 6


@pytest.mark.parametrize(
    ("v", "matrix", "match"),
    [
        ((5, 8), (2, 5, 5), r"\(B, N, C\) and a matrix \(h, M, N\), got \(5, 8\) and \(2, 5, 5\)"),
        ((1, 5, 8), (5, 5), r"got \(1, 5, 8\) and \(5, 5\)"),
        ((1, 6, 8), (2, 5, 5), "was made for 5 tokens, got 6: a matrix belongs to one token count; resample it"),
        ((1, 5, 8), (2, 6, 5), "6 rows for 5 tokens; it needs 1 <= M <= N"),
        ((1, 5, 8), (2, 0, 5), "0 rows for 5 tokens"),
        ((1, 5, 8), (3, 5, 5), "8 channels for 3 heads; the head count must divide"),
        ((1, 5, 8), (0, 5, 5), "8 channels for 0 heads"),
    ],
)
def test_names_what_is_wrong(v: tuple[int, ...], matrix: tuple[int, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        static_attention(torch.zeros(v), torch.zeros(matrix))


def test_names_the_cast_that_is_missing() -> None:
    with pytest.raises(ValueError, match=r"cast the matrix to torch\.float16"):
        static_attention(torch.zeros(1, 2, 2, dtype=torch.float16), torch.zeros(1, 2, 2))
