"""Parameters and multiply-accumulates of the family beside the closed forms.

Models are built without memory for their weights, on the meta device: shapes are all that is counted.
"""

from collections.abc import Iterator

import pytest
import torch

from skipvit.complexity import count_macs, count_params
from skipvit.models import create_model


@pytest.fixture(autouse=True)
def shapes_only() -> Iterator[None]:
    with torch.device("meta"):
        yield


@pytest.mark.parametrize(
    ("size", "dim", "heads", "k"), [("tiny", 192, 3, 3), ("small", 384, 6, 6), ("base", 768, 12, 4)]
)
def test_what_static_blocks_save(size: str, dim: int, heads: int, k: int) -> None:
    plain = create_model(f"vit_{size}_patch16_224").eval()
    model = create_model(f"dgssa_{size}_patch16_224", spec=f"static:0-{k - 1}").eval()
    n, x = 197, torch.zeros(1, 3, 224, 224)
    assert count_params(plain) - count_params(model) == k * (2 * dim * dim + 2 * dim - heads * n * n)
    assert count_macs(plain, x) - count_macs(model, x) == k * (2 * n * dim * dim + n * n * dim)


def macs_by_hand(dim: int, counts: list[int], static: int, classes: int = 1000, patches: int = 196) -> int:
    """Multiply-accumulates of a ViT/16 whose block i works on counts[i] patch tokens, the first ``static`` static."""
    total, before = patches * 768 * dim + dim * classes, patches
    for index, patch_tokens in enumerate(counts):
        if patch_tokens != before:
            total += patch_tokens * before * dim
        n, before = patch_tokens + 1, patch_tokens
        attention = (2 * n * dim**2 + n * n * dim) if index < static else (4 * n * dim**2 + 2 * n * n * dim)
        total += attention + 8 * n * dim**2
    return total


@pytest.mark.parametrize(
    ("spec", "counts", "static", "gmacs"),
    [
        ("static:0-3 tokens:100@6,49@9", [196] * 6 + [100] * 3 + [49] * 3, 4, 2.877),
        ("static:0-3 tokens:100@4,49@8", [196] * 4 + [100] * 4 + [49] * 4, 4, 2.397),
        ("static:0-2 tokens:100@3,49@6", [196] * 3 + [100] * 3 + [49] * 6, 3, 2.086),
        ("static:0-3 tokens:98@4,49@6,25@9", [196] * 4 + [98] * 2 + [49] * 3 + [25] * 3, 4, 2.066),
        ("static:0-2 tokens:64@3,16@9", [196] * 3 + [64] * 6 + [16] * 3, 3, 1.780),
    ],
)
def test_macs_of_dgssa_with_glad_on_deit_small(spec: str, counts: list[int], static: int, gmacs: float) -> None:
    model = create_model("dgssa_glad_small_patch16_224", spec=spec).eval()
    found = count_macs(model, torch.zeros(1, 3, 224, 224))
    assert found == macs_by_hand(384, counts, static)
    assert round(found / 1e9, 3) == pytest.approx(gmacs, abs=0.0011)


def test_the_small_preset_reaches_the_second_papers_budget() -> None:
    model = create_model("dgssa_glad_small_patch16_224").eval()
    assert count_macs(model, torch.zeros(1, 3, 224, 224)) <= 2.1e9
