"""The token pyramid as a layer: pooling at first, learned later, and back to the grid for dense heads."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipvit.layers.token_pyramid import PyramidKind, TokenPyramid, pooling_matrix, unpool

KINDS: list[PyramidKind] = ["static", "content"]
DIM = 6


def pyramid(grid_in: tuple[int, int], grid_out: tuple[int, int], prefix: int = 1, **kwargs: object) -> TokenPyramid:
    return TokenPyramid(DIM, grid_in, grid_out, prefix, **kwargs).double()  # type: ignore[arg-type]


def tokens(n: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, n, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_with_as_many_tokens_and_the_identity_it_does_nothing(kind: PyramidKind) -> None:
    layer, x = pyramid((3, 4), (3, 4), kind=kind, leak=0.0), tokens(13)
    torch.testing.assert_close(layer(x)[0], x, rtol=0, atol=1e-10)


@given(h=st.integers(1, 7), w=st.integers(1, 7), data=st.data(), prefix=st.integers(0, 3), kind=st.sampled_from(KINDS))
@settings(max_examples=50, deadline=None)
def test_it_starts_as_adaptive_average_pooling(
    h: int, w: int, data: st.DataObject, prefix: int, kind: PyramidKind
) -> None:
    out = (data.draw(st.integers(1, h)), data.draw(st.integers(1, w)))
    layer, x = pyramid((h, w), out, prefix, kind=kind, leak=0.0), tokens(prefix + h * w)
    y, _, matrix = layer(x)
    picture = x[:, prefix:].transpose(1, 2).reshape(2, DIM, h, w)
    pooled = F.adaptive_avg_pool2d(picture, out).flatten(2).transpose(1, 2)
    torch.testing.assert_close(y[:, prefix:], pooled, rtol=0, atol=1e-10)
    assert torch.equal(y[:, :prefix], x[:, :prefix])
    torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]), rtol=0, atol=1e-12)


def test_the_leak_spreads_a_share_over_all_tokens() -> None:
    layer = pyramid((4, 4), (2, 2), leak=0.2)
    expected = 0.8 * pooling_matrix((4, 4), (2, 2)) + 0.2 / 16
    torch.testing.assert_close(layer.matrix(), expected, rtol=0, atol=1e-8)  # made in float32


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind: PyramidKind) -> None:
    layer = pyramid((4, 4), (2, 2), kind=kind)
    if kind == "content":
        torch.nn.init.normal_(layer.queries)
    layer(tokens(17))[0].square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().min() if name == "logits" else parameter.grad.abs().max()) > 0, name


def test_content_decides_where_queries_are_not_zero() -> None:
    layer = pyramid((2, 2), (1, 2), kind="content")
    torch.nn.init.normal_(layer.queries, generator=torch.Generator().manual_seed(0))
    x = tokens(5)
    keys = F.layer_norm(x[:, 1:], (DIM,), eps=1e-6)
    expected = (layer.queries @ keys.transpose(1, 2) / DIM**0.5 + layer.logits).softmax(-1)
    y, _, matrix = layer(x)
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(y[:, 1:], expected @ x[:, 1:], rtol=0, atol=1e-12)


def test_the_reused_attention_output_shrinks_by_the_same_matrix() -> None:
    layer, x, z = pyramid((4, 4), (2, 2)), tokens(17), tokens(17).flip(1)
    _, reused, matrix = layer(x, z)
    assert reused is not None
    torch.testing.assert_close(reused[:, 1:], matrix @ z[:, 1:], rtol=0, atol=1e-12)
    assert torch.equal(reused[:, :1], z[:, :1])


def test_unpooling_inverts_pooling_of_constant_cells() -> None:
    coarse = tokens(4)
    fine = unpool(coarse, pooling_matrix((4, 4), (2, 2)))
    expected = F.interpolate(coarse.transpose(1, 2).reshape(2, DIM, 2, 2), size=(4, 4), mode="nearest")
    torch.testing.assert_close(fine, expected.flatten(2).transpose(1, 2), rtol=0, atol=1e-12)
    torch.testing.assert_close(pooling_matrix((4, 4), (2, 2)) @ fine, coarse, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_it_moves_to_another_grid(kind: PyramidKind) -> None:
    layer = pyramid((4, 4), (4, 2), kind=kind)
    layer.resample((6, 8), (6, 4))
    y, _, matrix = layer(tokens(49))
    assert y.shape == (2, 1 + 24, DIM)
    torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]), rtol=0, atol=1e-12)


def test_on_another_grid_each_query_goes_where_its_cell_went() -> None:
    layer = pyramid((4, 4), (2, 2), kind="content")
    queries = torch.arange(4.0).double()[:, None].expand(4, DIM).contiguous()  # a picture that grows to the lower right
    layer.queries = torch.nn.Parameter(queries)
    before = layer.matrix(torch.zeros(1, 16, DIM, dtype=torch.float64))[0].detach().reshape(2, 2, 4, 4)
    layer.resample((8, 8), (4, 4))
    expected = F.interpolate(queries.t().reshape(1, DIM, 2, 2), size=(4, 4), mode="bilinear", antialias=True)
    torch.testing.assert_close(layer.queries.detach(), expected.flatten(2)[0].t())
    after = layer.matrix(torch.zeros(1, 64, DIM, dtype=torch.float64))[0].detach().reshape(4, 4, 8, 8)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):  # a corner of the new grid pools what that of the old one did
        coarse = before[row, column].reshape(2, 2, 2, 2).sum((1, 3))
        fine = after[3 * row, 3 * column].reshape(2, 4, 2, 4).sum((1, 3))
        torch.testing.assert_close(fine, coarse, rtol=0, atol=0.2)


def test_another_token_count_is_refused_though_it_could_pass_for_prefix_tokens() -> None:
    with pytest.raises(ValueError, match=r"made for 1 \+ 16 tokens, got 26"):
        pyramid((4, 4), (2, 2))(tokens(26))
    with pytest.raises(ValueError, match="static or content"):
        pyramid((4, 4), (2, 2), kind="linear")
