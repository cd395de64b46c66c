"""The deployable graph's rewrites are exact: torch against torch, for every kind of ViT they claim to know."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.deploy import ClassTokenBlock, DeployClassifier, Normalise, SplitAttention
from skipvit.models import SkipVisionTransformer, create_model
from skipvit.models.timm_guard import timm
from skipvit.transforms import Preprocessing

SMALL: dict[str, Any] = {
    "img_size": (8, 12), "patch_size": 2, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 5,
}  # fmt: skip
PREPROCESSING = Preprocessing(height=8, width=12)
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def logits(
    model: nn.Module, pictures: np.ndarray[Any, Any] = PICTURES, pre: Preprocessing = PREPROCESSING
) -> torch.Tensor:
    return model(Normalise(pre)(torch.from_numpy(pictures).permute(0, 3, 1, 2).float()))


def assert_deploys_exactly(model: nn.Module) -> DeployClassifier:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    deployed = DeployClassifier(model, PREPROCESSING)
    expected = logits(model)
    found, probabilities = deployed(torch.from_numpy(PICTURES))
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(probabilities, expected.softmax(-1), rtol=2e-5, atol=2e-5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), "the model was changed"
    return deployed


@pytest.mark.parametrize("skip", [(), (1, 2), (2,)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"qkv_bias": False, "reg_tokens": 2},
        {"qk_norm": True},
        {"init_values": 0.5},
        {"global_pool": "avg"},
        {"global_pool": "avg", "class_token": False},
        {"global_pool": "map"},
        {"pre_norm": True, "no_embed_class": True, "reg_tokens": 1},
        {"scale_attn_norm": True},
    ],
    ids=str,
)
def test_rewrites_are_exact(skip: tuple[int, ...], options: dict[str, Any]) -> None:
    assert_deploys_exactly(randomised(SkipVisionTransformer(**SMALL, skip=skip, **options)))


@pytest.mark.parametrize(
    "spec",
    ["static:0-1", "tokens:12@1,6@2", "static:0 skip:2 tokens:12@2", "static:0-3", "static:1-3 tokens:6@1"],
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"static_class_row": "dynamic"},
        {"static_class_row": "dynamic", "qkv_bias": False, "reg_tokens": 1},
        {"static_class_row": "dynamic", "qk_norm": True},
        {"static_form": "factorised", "static_rank": 3},
        {"pyramid": "content"},
        {"global_pool": "avg", "class_token": False},
        {"scale_attn_norm": True, "init_values": 0.5},
    ],
    ids=str,
)
def test_rewrites_of_static_attention_and_pyramids_are_exact(spec: str, options: dict[str, Any]) -> None:
    deployed = assert_deploys_exactly(randomised(SkipVisionTransformer(**SMALL, spec=spec, **options)))
    left = [name for name, _ in deployed.named_parameters() if "logits" in name]
    assert bool(left) == (options.get("pyramid") == "content" and "tokens" in spec) or "qk_norm" in options


def test_a_guided_attention_is_not_folded_into_what_it_is_not() -> None:
    model = SkipVisionTransformer(**SMALL, spec="static:0-1", static_guided=True)
    assert_deploys_exactly(randomised(model))


def test_the_class_token_alone_is_computed_in_the_last_block() -> None:
    deployed = assert_deploys_exactly(randomised(timm.models.VisionTransformer(**SMALL)))
    blocks: Any = deployed.model.get_submodule("blocks")
    assert isinstance(blocks[-1], ClassTokenBlock)
    assert isinstance(blocks[0].attn, SplitAttention)


def test_models_that_are_no_plain_vit_deploy_as_they_are() -> None:
    model = randomised(timm.create_model("deit_tiny_distilled_patch16_224", **SMALL))
    deployed = assert_deploys_exactly(model)
    assert not any(isinstance(module, SplitAttention) for module in deployed.modules())


def test_padding_patch_embeddings_keep_the_normalisation_outside() -> None:
    model = randomised(
        timm.models.VisionTransformer(**{**SMALL, "patch_size": 5, "dynamic_img_pad": True, "img_size": 10})
    )
    pre = Preprocessing(height=10, width=10)
    pictures = np.random.default_rng(1).integers(0, 256, (2, 10, 10, 3), dtype=np.uint8)
    deployed = DeployClassifier(model, pre)
    torch.testing.assert_close(
        deployed(torch.from_numpy(pictures))[0], logits(model, pictures, pre), rtol=2e-5, atol=2e-5
    )
    assert isinstance(deployed.normalise, Normalise)


def test_half_precision_is_close() -> None:
    model = create_model("skipat_micro_patch2_8").eval()
    pre = Preprocessing(height=8, width=8)
    pictures = PICTURES[:, :, :8]
    found = DeployClassifier(model, pre, torch.float16)(torch.from_numpy(pictures))[0]
    assert found.dtype == torch.float32
    expected = logits(model, pictures, pre)
    assert (found - expected).abs().max() < 5e-3 * expected.abs().max()
