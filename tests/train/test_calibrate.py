"""Calibration against attention maps taken out of timm's own softmax, one picture at a time."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipvit.models import Choices, SkipVisionTransformer, Spec, create_model
from train.calibrate import calibrate, mean_attention


def vit(**args: Any) -> Any:
    torch.manual_seed(0)
    model = create_model("vit_micro_patch2_8", embed_dim=16, depth=4, num_heads=2, **args)
    with torch.no_grad():
        for parameter in model.parameters():  # as they start, queries and keys are too small for maps to differ
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double().eval()


def pictures(n: int) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def twin_of(model: Any, spec: str) -> SkipVisionTransformer:
    return SkipVisionTransformer.from_vit(model, Spec(tokens=Spec.parse(spec).tokens)).eval()


def maps_of(model: Any, block: int, images: Tensor) -> Tensor:
    """What timm's dropout on the softmax is given, when its fused kernel is off."""
    seen: list[Tensor] = []
    attention = model.blocks[block].attn
    attention.fused_attn = False
    handle = attention.attn_drop.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for image in images:
            model(image[None])
    handle.remove()
    attention.fused_attn = True
    return torch.cat(seen)


@pytest.mark.parametrize("spec", ["static:0,2", "static:1,3 tokens:1/2@2", "static:0-2 skip:3 tokens:2x2@1"])
@pytest.mark.parametrize("args", [{}, {"qk_norm": True}, {"global_pool": "avg", "class_token": False}])
def test_it_is_the_mean_of_the_maps(spec: str, args: dict[str, Any]) -> None:
    model, images, blocks = vit(**args), pictures(5), Spec.parse(spec).static
    twin = twin_of(model, spec)
    found = mean_attention(twin, blocks, images.split(2))
    for block in blocks:
        maps = maps_of(twin, block, images)
        assert maps.std(dim=0).max() > 1e-3, "pictures that all attend alike would prove nothing"
        assert (found[block] - maps.mean(dim=0)).abs().max() < 1e-12


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_it_does_not_depend_on_batches(sizes: list[int]) -> None:
    images = pictures(sum(sizes))
    twin = twin_of(vit(), "static:1")
    whole, split = (mean_attention(twin, (1,), parts)[1] for parts in ([images], images.split(sizes)))
    assert (whole - split).abs().max() < 1e-13


@pytest.mark.parametrize("choices", [Choices(), Choices(static_class_row="dynamic")])
def test_pictures_that_are_all_the_same_lose_nothing(choices: Choices) -> None:
    """The mean attention is then the attention, in every layer, so the converted model is the original."""
    model, images = vit(), pictures(1).repeat(6, 1, 1, 1)
    student = SkipVisionTransformer.from_vit(model, "static:0-3", choices).eval()
    with torch.no_grad():
        assert (student(images) - model(images)).abs().max() > 1e-2
        calibrate(student, twin_of(model, "static:0-3"), lambda: images.split(4))
        assert (student(images) - model(images)).abs().max() < 1e-10


def test_the_twin_ends_with_the_students_static_blocks() -> None:
    model, images = vit(), pictures(6)
    student = SkipVisionTransformer.from_vit(model, "static:0-1 tokens:1/2@2").eval()
    twin = twin_of(model, "tokens:1/2@2")
    calibrate(student, twin, lambda: images.split(4))
    with torch.no_grad():
        assert torch.equal(twin(images), student(images))
