"""Probes, against the same edit made by hand on the model itself, and against the models that converting gives."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skipvit.models import Choices, SkipVisionTransformer, Spec
from skipvit.models.timm_guard import timm
from tests.train.tiny_vits import KINDS, noise, parts_of, tiny_vit
from train.probes import Original, compare, logits_under, probe_layers
from train.vit_parts import UnfitModel, VitParts, check_spec


def mean_maps(parts: VitParts, images: Tensor) -> list[Tensor]:
    maps: list[Tensor] = []
    parts.watch(images, lambda a, z: maps.append(a.mean(dim=0)))
    return maps


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_parts_put_together_are_the_model(kind: str) -> None:
    model, images = tiny_vit(kind), noise(3)
    expected: list[Tensor] = []
    for block in model.blocks:  # type: ignore[union-attr]
        block.attn.register_forward_hook(lambda m, i, out: expected.append(out))  # type: ignore[union-attr]
    reference = model(images)
    parts, found, maps = parts_of(model), [], []
    parts.verify(images)
    expected = expected[:4]
    logits = parts.watch(images, lambda a, z: (maps.append(a), found.append(z)))
    torch.testing.assert_close(logits, reference, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for a in maps:
        torch.testing.assert_close(a.sum(dim=-1), torch.ones_like(a[..., 0]))
    assert max(float((a - a.mean(dim=0)).abs().max()) for a in maps) > 0.05, "attention differs between images"


@pytest.mark.parametrize("kind", KINDS)
def test_attention_maps_are_those_that_timm_computes_unfused(kind: str) -> None:
    model, images = tiny_vit(kind), noise(2)
    expected: list[Tensor] = []
    for block in model.blocks:  # type: ignore[union-attr]
        block.attn.fused_attn = False  # type: ignore[union-attr]
        block.attn.attn_drop.register_forward_hook(lambda m, i, out: expected.append(out))  # type: ignore[union-attr]
    model(images)
    found: list[Tensor] = []
    parts_of(tiny_vit(kind)).watch(images, lambda a, z: found.append(a))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 3])
def test_reuse_and_drop_are_the_model_with_its_attention_patched(kind: str, block: int) -> None:
    images = noise(6)
    parts = parts_of(tiny_vit(kind))
    original = Original(parts, images, mean_maps(parts, images), None)
    for probe in ("reuse", "drop"):
        patched: Any = tiny_vit(kind)
        kept: list[Tensor] = []
        patched.blocks[block - 1].attn.register_forward_hook(lambda m, i, out, kept=kept: kept.append(out))
        dropping = probe == "drop"
        patched.blocks[block].attn.register_forward_hook(
            lambda m, i, out, kept=kept, dropping=dropping: torch.zeros_like(out) if dropping else kept[-1]
        )
        cost = original.probe(block, probe)  # type: ignore[arg-type]
        assert cost is not None
        expected = compare(original.logits, patched(images).double(), None)
        assert vars(cost) == pytest.approx(vars(expected), abs=1e-9)
        assert cost.kl > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_static_is_the_model_with_its_softmax_replaced(kind: str) -> None:
    images = noise(6)
    parts = parts_of(tiny_vit(kind))
    maps = mean_maps(parts, images)
    original = Original(parts, images, maps, None)
    patched: Any = tiny_vit(kind)
    patched.blocks[2].attn.fused_attn = False
    patched.blocks[2].attn.attn_drop.register_forward_hook(lambda m, i, out: maps[2].expand_as(out))
    expected = compare(original.logits, patched(images).double(), None)
    cost = original.probe(2, "static")
    assert cost is not None
    assert vars(cost) == pytest.approx(vars(expected), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_averaged_before_the_block(kind: str) -> None:
    images = noise(6)
    parts = parts_of(tiny_vit(kind))
    original = Original(parts, images, mean_maps(parts, images), None)
    patched: Any = tiny_vit(kind)
    p = patched.num_prefix_tokens

    def pool(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        cells = [(0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)]  # 2 x 2 windows of the 4 x 4 grid
        means = [torch.stack([x[:, p + i] for i in cell]).mean(dim=0) for cell in cells]
        return (torch.cat([x[:, :p], torch.stack(means, dim=1)], dim=1), *inputs[1:])

    patched.blocks[2].register_forward_pre_hook(pool)
    expected = compare(original.logits, patched(images).double(), None)
    cost = original.probe(2, "tokens 1/4")
    assert cost is not None
    assert vars(cost) == pytest.approx(vars(expected), abs=1e-9)


@pytest.mark.parametrize(
    "spec", ["static:0-1 skip:2", "skip:1-2 tokens:1/2@2", "static:1 tokens:1/2@2,1/4@3", "tokens:1/4@1", ""]
)
def test_joint_replacements_are_what_converting_starts_from(spec: str) -> None:
    model, images = tiny_vit(), noise(5)
    parts = parts_of(model)
    maps = mean_maps(parts, images)
    converted: Any = SkipVisionTransformer.from_vit(model, spec, Choices(phi="identity"))
    for block in Spec.parse(spec).static:
        converted.blocks[block].attn.inherit(maps[block])
    found = logits_under(parts, images, Spec.parse(spec), maps)
    # a pyramid starts a ten-thousandth away from plain averaging
    torch.testing.assert_close(found, converted(images), rtol=2e-3, atol=2e-3)


def test_cost_does_not_depend_on_where_it_went_on_from() -> None:
    images = noise(5)
    parts = parts_of(tiny_vit())
    original = Original(parts, images, mean_maps(parts, images), torch.arange(5))
    specs = ["static:0,3", "static:0 skip:2", "tokens:1/2@2", "skip:2 tokens:1/4@2", "static:1 tokens:1/2@2,1/4@3", ""]
    for spec in specs:
        alone = logits_under(parts, images, Spec.parse(spec), original.mean_map)
        expected = compare(original.logits, alone, torch.arange(5))
        for near in specs:
            assert vars(original.cost(Spec.parse(spec), Spec.parse(near))) == pytest.approx(vars(expected), abs=1e-9)


def test_cost_against_its_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 8, 5))
    labels = rng.integers(0, 5, 8)
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (a, b))
    cost = compare(torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(labels))
    assert cost.kl == pytest.approx(np.mean(np.sum(p * np.log(p / q), axis=1)))
    assert cost.agreement == np.mean(a.argmax(axis=1) == b.argmax(axis=1))
    assert cost.cosine == pytest.approx(np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]))
    right = [np.mean(x.argmax(axis=1) == labels) for x in (a, b)]
    assert cost.accuracy == right[1]
    assert cost.accuracy_change == pytest.approx(right[1] - right[0])


def test_every_probe_of_every_block_is_there_but_those_that_cannot_be() -> None:
    images = noise(4)
    parts = parts_of(tiny_vit())
    heard: list[int] = []
    found = probe_layers(Original(parts, images, mean_maps(parts, images), None), heard.append)
    assert {name: [cost is not None for cost in costs] for name, costs in found.items()} == {
        "static": [True] * 4,
        "reuse": [False, True, True, True],
        "drop": [True] * 4,
        "tokens 1/2": [False, True, True, True],
        "tokens 1/4": [False, True, True, True],
    }
    assert sum(heard) == 20


def test_images_that_are_all_the_same_make_static_free() -> None:
    images = noise(1).expand(4, -1, -1, -1)
    parts = parts_of(tiny_vit())
    original = Original(parts, images, mean_maps(parts, images), None)
    assert original.cost(Spec.parse("static:0-3")).kl < 1e-12


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: timm.create_model("resnet10t", num_classes=3), "ResNet is not a plain ViT"),
        (
            lambda: timm.models.SwinTransformer(img_size=56, embed_dim=8, depths=(1,), num_heads=(2,)),
            "is not a plain ViT",
        ),
        (lambda: timm.models.VisionTransformer(embed_dim=16, depth=1, num_heads=2, num_classes=0), "has 0 classes"),
        (lambda: timm.create_model("skipat_micro_patch2_8"), "has a spec already .skip:2-5.; give the ViT"),
        (
            lambda: timm.models.vision_transformer.VisionTransformer(
                depth=1, embed_dim=16, num_heads=2, attn_layer="diff"
            ),
            "DiffAttention, whose attention map is not known",
        ),
    ],
)
def test_models_without_plain_attention_are_refused(model: Any, message: str) -> None:
    with pytest.raises(UnfitModel, match=message):
        parts_of(model())


def test_a_model_with_more_than_its_blocks_is_refused() -> None:
    class Twice(timm.models.vision_transformer.VisionTransformer):  # type: ignore[misc, name-defined]
        def forward_features(self, x: Tensor, **masks: Any) -> Tensor:
            return 2 * super().forward_features(x, **masks) + 1

    model = Twice(img_size=8, patch_size=2, embed_dim=16, depth=2, num_heads=2, num_classes=5).eval()
    with pytest.raises(UnfitModel, match="computes something between its blocks"):
        parts_of(model).verify(noise(2, torch.float32))


def test_a_model_whose_outputs_are_not_finite_is_refused() -> None:
    model: Any = tiny_vit()
    model.blocks[1].mlp.fc1.weight[0, 0] = float("nan")
    with pytest.raises(UnfitModel, match="not finite"):
        parts_of(model).verify(noise(2))


@pytest.mark.parametrize("spec", ["skip:0", "skip:3", "static:4", "static:2 tokens:1/2@2", "tokens:17@1"])
def test_specs_that_cannot_be_probed_are_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        check_spec(parts_of(tiny_vit()), Spec.parse(spec))
