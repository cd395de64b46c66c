"""Static attention as a layer: what it inherits, what λ mixes, and how it moves to another grid."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipvit.layers.resample import resample_attention
from skipvit.layers.static_attention import StaticAttention
from skipvit.models.timm_guard import timm

TOKENS, DIM, HEADS = 10, 12, 3


def attention(**kwargs: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.layers.Attention(DIM, HEADS, qkv_bias=True, **kwargs).double().eval()


def tokens(batch: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(batch, TOKENS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def attention_matrix(module: torch.nn.Module, x: Tensor) -> Tensor:
    """softmax(QKᵀ/√d) (B, h, N, N), from the packed weights."""
    qkv = (x @ module.qkv.weight.T + module.qkv.bias).reshape(*x.shape[:2], 3, HEADS, DIM // HEADS)
    q, k, _ = qkv.permute(2, 0, 3, 1, 4)
    return (q @ k.transpose(-2, -1) / (DIM // HEADS) ** 0.5).softmax(-1)


def static(module: torch.nn.Module, **kwargs: object) -> StaticAttention:
    return StaticAttention(module, TOKENS, **kwargs).double().eval()  # type: ignore[arg-type]


def test_the_formula() -> None:
    module = attention()
    layer, x = static(module), tokens()
    v = (x @ module.qkv.weight[2 * DIM :].T + module.qkv.bias[2 * DIM :]).reshape(4, TOKENS, HEADS, -1)
    y = torch.einsum("hij,bjhd->bihd", layer.logits.softmax(-1), v).reshape(4, TOKENS, DIM)
    torch.testing.assert_close(layer(x), y @ module.proj.weight.T + module.proj.bias, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "norm_layer": torch.nn.LayerNorm}])
def test_lambda_0_is_the_dynamic_attention_and_lambda_1_the_static_one(options: dict[str, object]) -> None:
    module, x = attention(**options), tokens()
    guided = static(module, guided=True)
    plain = static(module)
    plain.load_state_dict({k: v for k, v in guided.state_dict().items() if k in plain.state_dict()}, strict=True)
    torch.testing.assert_close(guided(x), module(x), rtol=0, atol=1e-12)
    guided.guide.fill_(1.0)
    torch.testing.assert_close(guided(x), plain(x), rtol=0, atol=1e-12)


def test_lambda_mixes_the_matrices() -> None:
    module, x = attention(), tokens()
    guided = static(module, guided=True)
    guided.guide.fill_(0.25)
    a = 0.75 * attention_matrix(module, x) + 0.25 * guided.matrix()
    v = guided.v(x).reshape(4, TOKENS, HEADS, -1)
    y = torch.einsum("bhij,bjhd->bihd", a, v).reshape(4, TOKENS, DIM)
    torch.testing.assert_close(guided(x), guided.proj(y), rtol=0, atol=1e-12)


def test_identical_images_make_the_inherited_static_attention_exact() -> None:
    module = attention()
    x = tokens(batch=1).expand(5, -1, -1)
    layer = static(module)
    layer.inherit(attention_matrix(module, x).mean(0))
    torch.testing.assert_close(layer(x), module(x), rtol=0, atol=1e-12)


def test_the_mean_minimises_the_guide_and_the_squared_distance() -> None:
    module, x = attention(), tokens(batch=6)
    layer = static(module, guided=True)
    a = attention_matrix(module, x)
    layer.inherit(a.mean(0))
    torch.testing.assert_close(layer.matrix(), a.mean(0), rtol=0, atol=1e-12)

    def guide() -> float:
        layer(x)
        assert layer.guide_loss is not None
        return float(layer.guide_loss.detach())

    best, squared = guide(), float(((layer.matrix() - a) ** 2).sum().detach())
    assert best == pytest.approx(float((a * (a.log() - a.mean(0).log())).sum(-1).mean().detach()))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _ in range(20):
            step = 1e-3 * torch.randn(layer.logits.shape, dtype=torch.float64, generator=generator)
            layer.logits += step
            assert guide() > best
            assert float(((layer.matrix() - a) ** 2).sum().detach()) > squared
            layer.logits -= step


def test_the_guide_teaches_the_matrix_and_not_the_teacher() -> None:
    layer = static(attention(), guided=True).train()
    before = None
    optimiser = torch.optim.SGD([layer.logits], lr=5.0)
    for _ in range(30):
        layer(tokens())
        assert layer.guide_loss is not None
        optimiser.zero_grad()
        layer.guide_loss.backward()
        assert layer.qk is not None
        assert layer.qk.weight.grad is None
        optimiser.step()
        before = before or float(layer.guide_loss.detach())
    assert float(layer.guide_loss.detach()) < 0.9 * before


def test_the_class_row_may_stay_dynamic() -> None:
    module, x = attention(), tokens()
    layer = static(module, class_row="dynamic")
    y = layer(x)
    torch.testing.assert_close(y[:, 0], module(x)[:, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(y[:, 1:], static_rows(layer, x)[:, 1:], rtol=0, atol=1e-12)


def static_rows(layer: StaticAttention, x: Tensor) -> Tensor:
    v = layer.v(x).reshape(x.shape[0], TOKENS, HEADS, -1)
    return layer.proj(torch.einsum("hij,bjhd->bihd", layer.matrix(), v).reshape(x.shape))


def test_a_factorised_matrix_of_full_rank_inherits_exactly_and_of_low_rank_nearly() -> None:
    module = attention()
    mean = attention_matrix(module, tokens(batch=8)).mean(0)
    errors = []
    for rank in (1, 4, TOKENS):
        layer = static(module, form="factorised", rank=rank)
        layer.inherit(mean)
        errors.append(float((layer.matrix() - mean).abs().max().detach()))
    assert errors[0] > errors[1] > 1e-9 > errors[2]


def test_a_rows_level_costs_the_factorised_form_no_rank() -> None:
    generator = torch.Generator().manual_seed(4)
    left, right = (torch.randn(HEADS, TOKENS, 1, dtype=torch.float64, generator=generator) for _ in range(2))
    mean = (left @ right.transpose(1, 2)).softmax(-1)  # log of it is of rank 1 and a level for each row
    layer = static(attention(), form="factorised", rank=1)
    layer.inherit(mean)
    torch.testing.assert_close(layer.matrix(), mean, rtol=0, atol=1e-12)


@given(h=st.integers(1, 5), w=st.integers(1, 5), h2=st.integers(1, 9), w2=st.integers(1, 9), p=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_resampled_rows_still_sum_to_one(h: int, w: int, h2: int, w2: int, p: int) -> None:
    n = p + h * w
    matrix = torch.rand(2, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).softmax(-1)
    found = resample_attention(matrix, (h, w), (h2, w2), p)
    assert found.shape == (2, p + h2 * w2, p + h2 * w2)
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]), rtol=0, atol=1e-12)
    assert bool((found >= 0).all())
    torch.testing.assert_close(resample_attention(matrix, (h, w), (h, w), p), matrix, rtol=0, atol=1e-12)


def test_resampling_keeps_uniform_attention_uniform_and_the_class_tokens_share() -> None:
    n = 1 + 16
    matrix = torch.full((1, n, n), 0.5 / 16, dtype=torch.float64)
    matrix[..., 0] = 0.5
    found = resample_attention(matrix, (4, 4), (6, 8), 1)
    torch.testing.assert_close(found[..., 0], torch.full((1, 49), 0.5, dtype=torch.float64))
    torch.testing.assert_close(found[..., 1:], torch.full((1, 49, 48), 0.5 / 48, dtype=torch.float64))


def test_the_layer_resamples_itself() -> None:
    layer = static(attention())
    before = layer.matrix().detach()
    layer.resample((3, 3), (6, 6), 1)
    assert layer(torch.randn(2, 37, DIM, dtype=torch.float64)).shape == (2, 37, DIM)
    torch.testing.assert_close(layer.matrix(), resample_attention(before, (3, 3), (6, 6), 1), rtol=0, atol=1e-12)


def test_a_wrong_token_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"made for 10 tokens, got 11.*set_input_size"):
        static(attention())(torch.zeros(1, 11, DIM, dtype=torch.float64))


def test_what_cannot_be_static_is_refused() -> None:
    with pytest.raises(ValueError, match="gate"):
        static(attention(gated=True))
    with pytest.raises(ValueError, match="dense or factorised"):
        static(attention(), form="sparse")
