"""The authors' released weights compute in our model what the paper's equations compute from them."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipvit.models import create_model
from skipvit.models.official import from_official, is_official, to_official
from skipvit.weights import WeightsError
from tests.skipvit.released_skipat import SKIPPED_BLOCKS, equations, released


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("dim", "heads", "grid", "patch"),
    [(192, 3, 4, 16), (192, 3, 14, 16), (45, 5, 4, 3), (45, 5, 14, 3), (128, 2, 5, 4)],
)
def test_logits_are_those_of_the_equations(
    dim: int, heads: int, grid: int, patch: int, dtype: torch.dtype, tolerance: float
) -> None:
    weights = released(dim, grid, patch, 11, dtype)
    found = from_official(weights, "w", None if dim % 64 == 0 else heads)
    model: Any = create_model(found.architecture, **found.model_args).eval().to(dtype)
    model.load_state_dict(found.state, strict=True)
    images = torch.randn(2, 3, grid * patch, grid * patch, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.inference_mode():
        logits, expected = model(images), equations(weights, images, heads)
    assert expected.std() > 0.3, "logits that hardly vary would hide a difference"
    assert (logits - expected).abs().max() <= tolerance


def test_the_oracle_sees_each_live_weight_and_no_dead_one() -> None:
    """Without this the comparison above could pass with a weight that neither side reads."""
    weights = {name: value.requires_grad_() for name, value in released(8, 4, 2, 3, torch.float64).items()}
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    equations(weights, images, heads=2).sum().backward()
    unread = {name for name, value in weights.items() if value.grad is None}
    assert unread == set(from_official({k: v.detach() for k, v in weights.items()}, "w", 2).dropped)


@pytest.mark.parametrize(
    ("dim", "name", "live", "constructed"),
    [
        (192, "tiny", 5_774_000, 6_666_000),
        (384, "small", 22_164_000, 25_716_000),
        (768, "base", 86_793_000, 100_977_000),
    ],
)
def test_the_paper_s_models_are_recognised(dim: int, name: str, live: int, constructed: int) -> None:
    """Their parameter counts, as constructed and as used, rounded to thousands."""
    with torch.device("meta"):
        model = create_model(f"skipat_{name}_patch16_224")
    zeros = {key: torch.zeros(1).expand(value.shape) for key, value in model.state_dict().items()}
    found = from_official(to_official(zeros), "w")
    assert found.architecture == f"skipat_{name}_patch16_224"
    assert found.model_args == {"num_classes": 1000}
    kept = sum(value.numel() for value in found.state.values())
    assert (round(kept, -3), round(kept + found.dropped_params, -3)) == (live, constructed)


def test_other_sizes_are_derived() -> None:
    assert from_official(released(192, 3, 16, 5), "w").model_args == {"num_classes": 5, "img_size": 48}
    assert from_official(released(192, 14, 16, 5), "w", 6).model_args == {"num_classes": 5, "num_heads": 6}
    args = {"num_classes": 7, "img_size": 28, "patch_size": 2, "embed_dim": 64, "num_heads": 1}
    assert from_official(released(64, 14, 2, 7), "w").model_args == args


def test_what_is_mapped_and_what_is_dropped() -> None:
    found = from_official(released(16, 4, 2, 3), "w", 2)
    assert found.renamed["param_1.linear1.0.weight"] == "blocks.3.phi.fc1.weight"
    assert found.renamed["param_6.eca.conv.weight"] == "blocks.8.phi.eca.weight"
    assert len(found.renamed) == 6 * 7
    assert found.dropped["blocks.3.attn.qkv.weight"] == 3 * 16 * 16
    parts = ("norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias")
    assert set(found.dropped) == {f"blocks.{i}.{part}" for i in SKIPPED_BLOCKS for part in parts}
    assert found.dropped_params == 6 * (2 * 16 + 3 * 16 * 17 + 16 * 17)


@settings(max_examples=20, deadline=None)
@given(dim=st.integers(1, 12), grid=st.integers(1, 5), patch=st.integers(1, 4), classes=st.integers(1, 5))
def test_there_and_back(dim: int, grid: int, patch: int, classes: int) -> None:
    weights = released(dim, grid, patch, classes)
    found = from_official(weights, "w", num_heads=1)
    back = to_official(found.state, {name: weights[name] for name in found.dropped})
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    bare = to_official(found.state)
    assert all(bare[name].count_nonzero() == 0 for name in found.dropped)
    assert is_official(bare)
    assert not is_official(found.state)


def test_files_without_the_dead_weights_will_do() -> None:
    weights = released(16, 4, 2, 3)
    whole = from_official(weights, "w", 2)
    live = {name: value for name, value in weights.items() if name not in whole.dropped}
    assert from_official(live, "w", 2).state.keys() == whole.state.keys()
    assert from_official(live, "w", 2).dropped == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm.bias": None, "cls_token": None}, r"w is not a released SkipAt model; missing: cls_token, norm\.bias$"),
        ({"param_1.eca.conv.weight": None}, r"missing: param_1\.eca\.conv\.weight$"),
        ({"param_1.eca.conv.bias": torch.ones(1)}, r"unknown: param_1\.eca\.conv\.bias$"),
        ({"param_7.linear1.0.weight": torch.ones(32, 16)}, r"unknown: param_7\.linear1\.0\.weight$"),
        ({"dist_token": torch.ones(1, 1, 16)}, "unknown: dist_token$"),
        ({"blocks.12.norm1.bias": torch.ones(16)}, r"unknown: blocks\.12\.norm1\.bias$"),
        (
            {"blocks.3.attn.proj.bias": torch.ones(15)},
            r"shape: blocks\.3\.attn\.proj\.bias \(15,\) in place of \(16,\)",
        ),
        ({"param_2.dwconv.0.weight": torch.ones(32, 1, 3, 3)}, r"param_2\.dwconv\.0\.weight \(32, 1, 3, 3\) in place"),
        ({"norm.bias": torch.ones(16, dtype=torch.int64)}, r"not floating-point: norm\.bias"),
        ({"norm.bias": torch.full((16,), float("inf"))}, r"16 of the 16 values of norm\.bias are NaN or infinite"),
        (
            {"patch_embed.proj.weight": torch.ones(16, 3, 2, 4)},
            r"patch_embed\.proj\.weight \(16, 3, 2, 4\) in place of",
        ),
        ({"patch_embed.proj.weight": torch.ones(16, 12)}, r"has no patch_embed\.proj\.weight of the usual kind"),
        ({"head.weight": None}, r"has no head\.weight of the usual kind"),
        ({"head.weight": torch.ones(0, 16)}, "0 classes"),
        ({"pos_embed": torch.ones(1, 18, 16)}, "18 tokens, which are not a square grid and a class token"),
        ({"pos_embed": torch.ones(1, 0, 16)}, "0 tokens, which are not"),
    ],
)
def test_whatever_cannot_be_accounted_for_is_refused(change: dict[str, Tensor | None], message: str) -> None:
    weights = {**released(16, 4, 2, 3), **change}
    with pytest.raises(WeightsError, match=message):
        from_official({name: value for name, value in weights.items() if value is not None}, "w", 2)


@pytest.mark.parametrize(
    ("dim", "heads", "message"), [(16, None, "give the number of heads"), (16, 3, "among 3 heads")]
)
def test_heads_must_divide_the_width(dim: int, heads: int | None, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        from_official(released(dim, 4, 2, 3), "w", heads)


def test_only_such_a_model_has_a_released_form() -> None:
    state = create_model("skipat_micro_patch2_8").state_dict()
    with pytest.raises(WeightsError, match="the model is not a released SkipAt model"):
        to_official(state)
