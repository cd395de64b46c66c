"""Convolution and window attention over space and time, against PyTorch's own and against their formulas."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skipvit.layers.space_time import (
    ReusedSpaceTimeAttention,
    SpaceTimeAttention,
    SpaceTimeConv,
    WindowPartition,
    relative_offsets,
)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def randomised(module: nn.Module) -> nn.Module:
    """With weights that are neither zero nor symmetric, in double precision."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return module


def windows_by_loops(x: Tensor, w: int) -> list[Tensor]:
    """Each window's tokens (T*w*w, C) of x (B, T, H, W, C), clip by clip, row by row."""
    B, _, H, W, C = x.shape
    return [
        x[b, :, i : i + w, j : j + w].reshape(-1, C) for b in range(B) for i in range(0, H, w) for j in range(0, W, w)
    ]


@given(B=st.integers(1, 2), T=st.integers(1, 3), rows=st.integers(1, 3), columns=st.integers(1, 3), w=st.integers(1, 3))
def test_windows_are_cut_and_put_back(B: int, T: int, rows: int, columns: int, w: int) -> None:
    x = normal(B, T, rows * w, columns * w, 2)
    partition = WindowPartition(w)
    tokens = partition.split(x)
    assert torch.equal(tokens, torch.stack(windows_by_loops(x, w)))
    assert torch.equal(partition.join(tokens, x.shape), x)


@settings(max_examples=20, deadline=None)
@given(time=st.sampled_from([1, 3, 5]), space=st.sampled_from([1, 3]), T=st.integers(1, 4), causal=st.booleans())
def test_a_convolution_is_its_sums_over_frames(time: int, space: int, T: int, causal: bool) -> None:
    conv = randomised(SpaceTimeConv(2, 3, time, space, causal=causal))
    assert isinstance(conv, SpaceTimeConv)
    x = normal(1, 2, T, 4, 5)
    first = -(time - 1) if causal else -(time // 2)
    for t in range(T):
        y = conv.bias.view(1, 3, 1, 1).expand(1, 3, 4, 5)
        for k in range(time):
            if 0 <= t + first + k < T:
                y = y + F.conv2d(x[:, :, t + first + k], conv.weight[:, :, k], padding=space // 2)
        torch.testing.assert_close(conv(x)[:, :, t], y)


@pytest.mark.parametrize(("time", "causal"), [(1, False), (3, False), (3, True), (2, True)])
def test_a_convolution_starts_on_each_frame_alone(time: int, causal: bool) -> None:
    conv, x = SpaceTimeConv(2, 3, time, causal=causal).double(), normal(1, 2, 4, 5, 5)
    alone = F.conv2d(x[0].transpose(0, 1), conv.weight[:, :, -1 if causal else time // 2], conv.bias, padding=1)
    torch.testing.assert_close(conv(x)[0], alone.transpose(0, 1))
    assert alone.std() > 0.1


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_its_formula(causal: bool) -> None:
    """Per window and head: softmax(q k / √d + bias of the offset) v, later frames left out if causal."""
    B, T, H, W, C, h, w = 2, 3, 4, 2, 6, 2, 2
    attention = randomised(SpaceTimeAttention(C, h, T, w, causal))
    assert isinstance(attention, SpaceTimeAttention)
    x = normal(B, T, H, W, C)
    z, matrices = attention(x)
    places = [(t, i, j) for t in range(T) for i in range(w) for j in range(w)]
    table = attention.relative_position_bias_table.unflatten(0, (2 * T - 1, 2 * w - 1, 2 * w - 1))
    expected = []
    for number, tokens in enumerate(windows_by_loops(x, w)):
        q, k = attention.qk(tokens).split(C, dim=1)
        v, heads = attention.v(tokens), []
        for head in range(h):
            own = slice(head * C // h, (head + 1) * C // h)
            scores = q[:, own] @ k[:, own].T / (C // h) ** 0.5
            for a, (t, i, j) in enumerate(places):
                for b, (s, m, n) in enumerate(places):
                    scores[a, b] += table[t - s + T - 1, i - m + w - 1, j - n + w - 1, head]
                    if causal and s > t:
                        scores[a, b] = -torch.inf
            matrix = scores.softmax(dim=1)
            torch.testing.assert_close(matrices[number, head], matrix)
            heads.append(matrix @ v[:, own])
        expected.append(attention.proj(torch.cat(heads, dim=1)))
    torch.testing.assert_close(torch.stack(windows_by_loops(z, w)), torch.stack(expected))
    torch.testing.assert_close(matrices.sum(dim=-1), torch.ones_like(matrices[..., 0]))


def test_reused_attention_is_attention_with_the_same_values() -> None:
    own, x = randomised(SpaceTimeAttention(6, 2, 3, 2)), normal(2, 3, 4, 4, 6)
    z, matrix = own(x)
    reused = ReusedSpaceTimeAttention(6, 2, 2).double()
    reused.load_state_dict({k: p for k, p in own.state_dict().items() if k.startswith(("v.", "proj."))})
    assert torch.equal(reused(x, matrix), z)


def test_offsets_are_one_number_each() -> None:
    offsets, later = relative_offsets(3, 2)
    assert offsets.shape == later.shape == (12, 12)
    assert offsets.unique().tolist() == list(range(5 * 3 * 3))
    assert torch.equal(offsets.diag(), offsets[0, 0].expand(12))
    assert later[0].tolist() == [False] * 4 + [True] * 8


@pytest.mark.parametrize(("dim", "heads"), [(6, 4), (6, 0)])
def test_refuses_heads_that_do_not_divide(dim: int, heads: int) -> None:
    for build in (lambda: SpaceTimeAttention(dim, heads, 2, 2), lambda: ReusedSpaceTimeAttention(dim, heads, 2)):
        with pytest.raises(ValueError, match=f"6 channels cannot be shared out to {heads} heads"):
            build()
