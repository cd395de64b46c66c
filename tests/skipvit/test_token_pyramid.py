"""token_pyramid against its sums written out, finite differences, and torch's own checks of a custom op."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skipvit.complexity import count_macs
from skipvit.ops import token_pyramid, token_pyramid_reference

OP = torch.ops.skipvit.token_pyramid.default


def normal(*shape: int, dtype: torch.dtype = torch.float64, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_(grad)


def by_loops(x: Tensor, matrix: Tensor) -> Tensor:
    """The definition, one output token of one image at a time."""
    B = x.shape[0]
    m, n = matrix.shape[-2:]
    p = x.shape[1] - n
    y = torch.zeros(B, p + m, x.shape[2], dtype=x.dtype)
    for b in range(B):
        own = matrix if matrix.ndim == 2 else matrix[b]
        for i in range(p):
            y[b, i] = x[b, i]
        for i in range(m):
            for j in range(n):
                y[b, p + i] += own[i, j] * x[b, p + j]
    return y


class Shrink(nn.Module):
    """An op with a constant matrix, as a model holds it."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        return token_pyramid(x, self.matrix)


class ShrinkByContent(nn.Module):
    """One matrix per image, computed from the image: (B, 8, 5) gives (B, 3, 5), and three tokens are prefix."""

    def forward(self, x: Tensor) -> Tensor:
        return token_pyramid(x, x[:, 1:4].softmax(dim=-1))


@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(0, 3),
    p=st.integers(0, 3),
    n=st.integers(1, 6),
    C=st.integers(1, 5),
    own=st.booleans(),
    data=st.data(),
)
def test_is_its_definition(B: int, p: int, n: int, C: int, own: bool, data: st.DataObject) -> None:
    m = data.draw(st.integers(1, n))
    x, matrix = normal(B, p + n, C), normal(*((B, m, n) if own else (m, n)))
    y = token_pyramid(x, matrix)
    assert y.is_contiguous()
    torch.testing.assert_close(y, by_loops(x, matrix), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(token_pyramid_reference(x, matrix), y, rtol=1e-12, atol=1e-12)


def test_the_identity_changes_nothing() -> None:
    x = normal(2, 7, 3)
    assert torch.equal(token_pyramid(x, torch.eye(6, dtype=x.dtype)), x)


def test_block_averages_are_average_pooling() -> None:
    """A 4 x 6 grid to 2 x 3, each row of the matrix a 2 x 2 window: torch's own pooling is the oracle."""
    x = normal(2, 1 + 24, 5)
    images = x[:, 1:].mT.reshape(2, 5, 4, 6)
    pooled = nn.functional.avg_pool2d(images, 2).flatten(2).mT
    windows = torch.eye(24, dtype=x.dtype).reshape(24, 4, 6)
    matrix = nn.functional.avg_pool2d(windows, 2).flatten(1).T  # the pooling of every unit image
    torch.testing.assert_close(token_pyramid(x, matrix), torch.cat([x[:, :1], pooled], dim=1))


@pytest.mark.parametrize("shape", [(2, 4), (3, 2, 4)])
@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize(("grad_x", "grad_matrix"), [(True, True), (True, False), (False, True)])
def test_gradients(shape: tuple[int, ...], prefix: int, grad_x: bool, grad_matrix: bool) -> None:
    inputs = (normal(3, prefix + 4, 3, grad=grad_x), normal(*shape, grad=grad_matrix))
    assert torch.autograd.gradcheck(token_pyramid, inputs)
    assert torch.autograd.gradgradcheck(token_pyramid, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_keeps_the_dtype(dtype: torch.dtype) -> None:
    x, matrix = normal(2, 7, 8, dtype=dtype), normal(3, 6, dtype=dtype).softmax(dim=-1)
    y = token_pyramid(x, matrix)
    assert y.dtype == dtype
    torch.testing.assert_close(y, by_loops(x.double(), matrix.double()).to(dtype))


@pytest.mark.parametrize("shape", [(2, 4), (3, 2, 4)])
def test_autocast_changes_nothing_forward_or_backward(shape: tuple[int, ...]) -> None:
    x, matrix = normal(3, 5, 4, dtype=torch.float32, grad=True), normal(*shape, dtype=torch.float32, grad=True)
    expected = torch.autograd.grad(token_pyramid(x, matrix).square().sum(), (x, matrix))
    with torch.autocast("cpu", torch.bfloat16):
        y = token_pyramid(x, matrix)
        found = torch.autograd.grad(y.square().sum(), (x, matrix))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, token_pyramid_reference(x, matrix))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", [(2, 4), (3, 2, 4)])
@pytest.mark.parametrize("prefix", [0, 1])
def test_opcheck(shape: tuple[int, ...], prefix: int) -> None:
    torch.library.opcheck(OP, (normal(3, prefix + 4, 2, grad=True), normal(*shape, grad=True)))


@pytest.mark.parametrize("model", [Shrink(normal(2, 5)), ShrinkByContent()], ids=["shared", "own"])
def test_exports_with_a_dynamic_batch(model: nn.Module) -> None:
    program = torch.export.export(
        model, (normal(2, 8, 5),), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1)}}
    )
    assert OP in [node.target for node in program.graph.nodes]
    for batch in (1, 7):
        x = normal(batch, 8, 5)
        torch.testing.assert_close(program.module()(x), model(x))


def test_compiles_without_a_graph_break() -> None:
    x, matrix = normal(2, 5, 3, grad=True), normal(2, 4, grad=True)
    compiled = torch.compile(token_pyramid, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, matrix), by_loops(x, matrix))
    compiled(x, matrix).sum().backward()
    assert x.grad is not None
    assert matrix.grad is not None


@pytest.mark.parametrize("shape", [(2, 5), (4, 2, 5)])
def test_macs_are_m_times_n_times_c(shape: tuple[int, ...]) -> None:
    assert count_macs(Shrink(normal(*shape)), normal(4, 6, 3)) == 2 * 5 * 3


@pytest.mark.parametrize(
    ("x", "matrix", "match"),
    [
        ((5, 8), (2, 5), r"\(m, n\) or \(B, m, n\), got \(5, 8\) and \(2, 5\)"),
        ((1, 5, 8), (5,), r"got \(1, 5, 8\) and \(5,\)"),
        ((1, 5, 8), (2, 6), "was made for 6 patch tokens, got 5 tokens in all: a matrix belongs to one token count"),
        ((1, 9, 8), (6, 5), "from 5 tokens to 6; it needs 1 <= m <= n"),
        ((1, 5, 8), (0, 5), "from 5 tokens to 0"),
        ((3, 5, 8), (2, 2, 5), "2 matrices for 3 images"),
    ],
)
def test_names_what_is_wrong(x: tuple[int, ...], matrix: tuple[int, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        token_pyramid(torch.zeros(x), torch.zeros(matrix))


def test_names_the_cast_that_is_missing() -> None:
    with pytest.raises(ValueError, match=r"cast the matrix to torch\.float16"):
        token_pyramid(torch.zeros(1, 2, 2, dtype=torch.float16), torch.zeros(1, 2))
