"""Names of the family, and what any ViT of timm's becomes under a spec."""

import copy

import pytest
import torch
import torch.nn.functional as F

from skipvit.models import SkipVisionTransformer, create_model
from skipvit.models.timm_guard import timm
from tests.skipvit.small_vits import SMALL


@pytest.mark.parametrize("family", ["skipat", "dgssa", "glad", "dgssa_glad"])
def test_every_family_has_its_presets(family: str) -> None:
    names = timm.list_models(f"{family}_*")
    sizes = {f"{size}_patch16_{pixels}" for size in ("tiny", "small", "base") for pixels in (224, 384)}
    assert set(names) >= {f"{family}_{size}" for size in sizes | {"micro_patch2_8"}}


def test_a_384_preset_keeps_the_shares_of_its_tokens() -> None:
    model = create_model("dgssa_glad_tiny_patch16_384")
    assert [tuple(p.logits.shape) for p in model.pyramids.values()] == [(288, 576), (144, 288)]
    assert model.pretrained_cfg["input_size"] == (3, 384, 384)


def test_a_converted_vit_is_its_base_under_a_spec() -> None:
    base = {"img_size": 32, "depth": 4, "num_classes": 7}
    model = create_model("converted_vit", base="deit3_small_patch16_224", spec="static:0 skip:1-2", **base)
    assert str(model.spec) == "static:0 skip:1-2"
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    again = copy.deepcopy(model)
    again.load_state_dict(model.state_dict(), strict=True)
    assert model.pretrained_cfg["input_size"] == (3, 224, 224)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"base": ""}, "needs base="),
        ({"base": "vit_tiny_patch16_224", "pretrained": True}, "pretrained"),
        ({"base": "swin_tiny_patch4_window7_224"}, "plain VisionTransformer"),
        ({"base": "deit_tiny_distilled_patch16_224"}, "without distillation token"),
        ({"base": "vit_tiny_patch16_224", "spec": "skip:11"}, "class-token head"),
        ({"base": "vit_tiny_patch16_224", "spec": "tokens:97@3"}, "form no grid"),
        ({"base": "vit_tiny_patch16_224", "spec": "static:0", "dynamic_img_size": True}, "one picture size"),
        ({"base": "vit_tiny_patch16_224", "patch_drop_rate": 0.5}, "holes in the patch grid"),
        ({"base": "vit_tiny_patch16_224", "phi": "conv", "spec": "skip:1"}, "'phi', 'identity' or 'dwconv'"),
        ({"base": "vit_medium_patch16_gap_240", "spec": "static:0", "static_class_row": "dynamic"}, "no class token"),
        ({"base": "vit_base_patch16_xp_224", "spec": "skip:1"}, "cannot take a spec|no model is named"),
    ],
)
def test_what_cannot_be_converted_is_refused(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("converted_vit", **kwargs)


@pytest.mark.parametrize("kind", ["identity", "dwconv"])
def test_the_papers_ablations_of_phi(kind: str) -> None:
    model = SkipVisionTransformer(**SMALL, spec="skip:2-3", phi=kind).double().eval()
    tokens = torch.randn(2, 4, 6, 24, dtype=torch.float64)
    phi = model.blocks[2].phi
    if kind == "identity":
        assert torch.equal(phi(tokens), tokens)
    else:
        expected = F.conv2d(tokens.movedim(-1, 1), phi.dwconv.weight, phi.dwconv.bias, padding=2, groups=24)
        torch.testing.assert_close(phi(tokens), expected.movedim(1, -1))


def test_decay_leaves_matrices_alone() -> None:
    kept = create_model("dgssa_glad_micro_patch2_8").no_weight_decay()
    assert {"blocks.0.attn.logits", "pyramids.2.logits", "pos_embed"} <= kept
    assert {"blocks.0.attn.left", "blocks.0.attn.right"} <= create_model(
        "dgssa_micro_patch2_8", static_form="factorised"
    ).no_weight_decay()
