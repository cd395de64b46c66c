"""Statistics of attention, against their definitions written as loops."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from train.attention_statistics import CKA_GROUP, Accumulator, GroupedHsic, Statistics, entropy_rank, hsic

LAYERS, HEADS, TOKENS, CHANNELS = 3, 2, 5, 4


def data(images: int, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Maps (n, h, N, N) that share a pattern, and outputs (n, N, C) of neighbouring layers that share one."""
    g = torch.Generator().manual_seed(seed)
    maps, outputs = [], []
    z = torch.randn(images, TOKENS, CHANNELS, generator=g, dtype=torch.float64)
    for _ in range(LAYERS):
        pattern = torch.randn(HEADS, TOKENS, TOKENS, generator=g, dtype=torch.float64)
        own = torch.randn(images, HEADS, TOKENS, TOKENS, generator=g, dtype=torch.float64)
        maps.append((2 * pattern + own).softmax(dim=-1))
        z = z + 0.7 * torch.randn(z.shape, generator=g, dtype=torch.float64)
        outputs.append(z)
    return maps, outputs


def statistics(images: int, splits: list[int], rank_images: int = 3, class_token: bool = True) -> Statistics:
    maps, outputs = data(images)
    accumulator = Accumulator(LAYERS, class_token, rank_images)
    for low, high in itertools.pairwise([0, *splits, images]):
        for a, z in zip(maps, outputs, strict=True):
            accumulator.see(a[low:high], z[low:high])
    return accumulator.finish()


def cosine(a: Tensor, b: Tensor) -> float:
    x, y = a.numpy().ravel(), b.numpy().ravel()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def test_cosines_of_layers_are_means_over_images() -> None:
    n = 6
    maps, outputs = data(n)
    found = statistics(n, [2])
    for i, j in itertools.product(range(LAYERS), repeat=2):
        heads_i, heads_j = maps[i].mean(dim=1), maps[j].mean(dim=1)
        assert found.output_cosine[i, j] == pytest.approx(
            np.mean([cosine(outputs[i][k], outputs[j][k]) for k in range(n)])
        )
        assert found.map_cosine[i, j] == pytest.approx(np.mean([cosine(heads_i[k], heads_j[k]) for k in range(n)]))
        assert found.class_cosine is not None
        assert found.class_cosine[i, j] == pytest.approx(
            np.mean([cosine(heads_i[k, 0], heads_j[k, 0]) for k in range(n)])
        )
    assert statistics(n, [2], class_token=False).class_cosine is None


def test_similarity_across_images_is_the_mean_over_pairs() -> None:
    n = 7
    maps, _ = data(n)
    found = statistics(n, [3])
    assert found.similarity is not None
    assert found.centred_similarity is not None
    for layer, head in itertools.product(range(LAYERS), range(HEADS)):
        a = maps[layer][:, head]
        pairs = [(a[i], a[j]) for i, j in itertools.permutations(range(n), 2)]
        assert found.similarity[layer, head] == pytest.approx(np.mean([cosine(x, y) for x, y in pairs]))
        centred = [cosine(x - 1 / TOKENS, y - 1 / TOKENS) for x, y in pairs]
        assert found.centred_similarity[layer, head] == pytest.approx(np.mean(centred))
        mean = a.mean(dim=0)
        torch.testing.assert_close(found.mean_map[layer][head], mean)
        spread = np.sqrt(np.mean([((x - mean) ** 2).sum().item() for x in a]))
        assert found.deviation[layer, head] == pytest.approx(spread / mean.square().sum().sqrt().item())


def test_ranks_of_the_first_images_follow_their_singular_values() -> None:
    maps, _ = data(6)
    found = statistics(6, [2, 4], rank_images=3)
    assert found.rank_images == 3
    for layer, head in itertools.product(range(LAYERS), range(HEADS)):
        sigma = np.linalg.svd(maps[layer][:3, head].numpy(), compute_uv=False)
        p = sigma / sigma.sum(axis=1, keepdims=True)
        entropy = np.exp(-(p * np.log(p)).sum(axis=1))
        assert found.entropy_rank[layer, head] == pytest.approx(entropy.mean())
        stable = (sigma**2).sum(axis=1) / sigma[:, 0] ** 2
        assert found.stable_rank[layer, head] == pytest.approx(stable.mean())


@pytest.mark.parametrize(("rank", "size"), [(1, 6), (4, 6), (6, 6)])
def test_entropy_rank_of_equal_directions_is_their_number(rank: int, size: int) -> None:
    sigma = torch.tensor([2.0] * rank + [0.0] * (size - rank), dtype=torch.float64)
    assert float(entropy_rank(sigma)) == pytest.approx(rank)


def test_hsic_is_the_u_statistic_over_quadruples() -> None:
    """Song et al. 2012, equation 4: the mean over distinct i, j, q, r of K_ij (L_ij + L_qr - 2 L_iq)."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 3, generator=g, dtype=torch.float64)
    grams = x @ x.mT
    found = hsic(grams)
    for a, b in itertools.product(range(2), repeat=2):
        k, m = grams[a].numpy(), grams[b].numpy()
        terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in itertools.permutations(range(6), 4)]
        assert float(found[a, b]) == pytest.approx(np.mean(terms))


def test_cka_of_one_group_is_hsic_over_its_roots() -> None:
    _, outputs = data(9)
    grams = torch.stack([z.flatten(1) @ z.flatten(1).mT for z in outputs])
    h = hsic(grams)
    found = statistics(9, [4]).cka
    assert found is not None
    torch.testing.assert_close(found, h / (h.diagonal()[:, None] * h.diagonal()).sqrt())


def test_cka_is_blind_to_rotation_scale_and_shift_and_near_zero_for_strangers() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(16 * 8, 1, 40, generator=g, dtype=torch.float64)
    turned = 3 * x @ torch.linalg.qr(torch.randn(40, 40, generator=g, dtype=torch.float64))[0] + 5
    stranger = torch.randn(16 * 8, 1, 40, generator=g, dtype=torch.float64)
    groups = GroupedHsic(CKA_GROUP)
    groups.add([x, turned, stranger])
    found = groups.cka()
    assert found is not None
    assert float(found[0, 1]) == pytest.approx(1)
    # the biased estimator would say 0.3 with 16 images and 40 channels
    assert abs(float(found[0, 2])) < 0.1


def test_a_layer_that_all_images_leave_alike_is_like_no_other() -> None:
    _, outputs = data(CKA_GROUP)
    layers = [z.float() for z in outputs]
    noise = torch.randn(layers[1].shape, generator=torch.Generator().manual_seed(1))
    layers[1] = layers[1][:1] * (1 + 1e-7 * noise)  # the same but for rounding
    grouped = GroupedHsic(CKA_GROUP)
    grouped.add(layers)
    cka = grouped.cka()
    assert cka is not None
    others = GroupedHsic(CKA_GROUP)
    others.add([layers[0], layers[2]])
    expected = others.cka()
    assert expected is not None
    assert torch.equal(cka[1], torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    assert torch.equal(cka[:, 1], cka[1])
    assert torch.allclose(cka[[0, 2]][:, [0, 2]], expected)


def test_cka_needs_four_images_and_leaves_an_unfilled_last_group_out() -> None:
    assert statistics(3, []).cka is None
    _, outputs = data(CKA_GROUP + 5)
    groups = GroupedHsic(CKA_GROUP)
    groups.add(outputs)
    alone = GroupedHsic(CKA_GROUP)
    alone.add([z[:CKA_GROUP] for z in outputs])
    first, second = groups.cka(), alone.cka()
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first, second)


@settings(deadline=None, max_examples=20)
@given(splits=st.lists(st.integers(1, 36), max_size=6, unique=True).map(sorted))
def test_nothing_depends_on_how_images_were_split_into_batches(splits: list[int]) -> None:
    whole, split = statistics(37, [], rank_images=9), statistics(37, splits, rank_images=9)
    for name, value in vars(whole).items():
        torch.testing.assert_close(getattr(split, name), value, rtol=1e-9, atol=1e-9)


def test_images_that_attend_alike_have_similarity_one_and_no_deviation() -> None:
    maps, outputs = data(1)
    accumulator = Accumulator(LAYERS, True, 1)
    for a, z in zip(maps, outputs, strict=True):
        accumulator.see(a.expand(6, -1, -1, -1), z.expand(6, -1, -1))
    found = accumulator.finish()
    assert found.similarity is not None
    assert found.centred_similarity is not None
    torch.testing.assert_close(found.similarity, torch.ones_like(found.similarity))
    torch.testing.assert_close(found.centred_similarity, torch.ones_like(found.similarity))
    assert float(found.deviation.max()) < 1e-7


def test_uniform_attention_has_no_pattern_to_share() -> None:
    accumulator = Accumulator(1, True, 1)
    accumulator.see(torch.full((4, HEADS, TOKENS, TOKENS), 1 / TOKENS), torch.randn(4, TOKENS, CHANNELS))
    found = accumulator.finish()
    assert found.centred_similarity is not None
    assert found.centred_similarity.tolist() == [[0.0] * HEADS]
    assert found.stable_rank[0].tolist() == pytest.approx([1.0] * HEADS)


def test_one_image_has_nothing_to_be_compared_with() -> None:
    found = statistics(1, [])
    assert found.similarity is None
    assert found.centred_similarity is None
    assert found.cka is None
