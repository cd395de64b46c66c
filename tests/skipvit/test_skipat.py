"""SkipAt-ViT against the paper's figures, timm's own ViT, and the paper's equation written out block by block."""

import weakref
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skipvit.complexity import count_macs, count_params
from skipvit.layers.phi import Phi
from skipvit.models import SkipVisionTransformer, create_model
from skipvit.models.timm_guard import timm

SMALL = {"img_size": (8, 12), "patch_size": 2, "embed_dim": 24, "depth": 6, "num_heads": 3, "num_classes": 5}


def small(skip: Sequence[int] = (2, 3), **kwargs: object) -> SkipVisionTransformer:
    torch.manual_seed(0)
    return SkipVisionTransformer(**{**SMALL, **kwargs}, skip=skip).eval()


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)


# --- figures ---


@pytest.mark.parametrize(
    ("name", "params", "gmacs"),
    [
        ("vit_tiny_patch16_224", 5_717_416, 1.2537),
        ("vit_small_patch16_224", 22_050_664, 4.5989),
        ("vit_base_patch16_224", 86_567_656, 17.5638),
        ("skipat_tiny_patch16_224", 5_773_882, 1.1747),
        ("skipat_small_patch16_224", 22_163_578, 4.4391),
        ("skipat_base_patch16_224", 86_793_466, 17.2372),
    ],
)
def test_params_and_macs_of_the_paper(name: str, params: int, gmacs: float) -> None:
    model = create_model(name).eval()
    assert count_params(model) == params
    assert round(count_macs(model, torch.zeros(1, 3, 224, 224)) / 1e9, 4) == gmacs


@pytest.mark.parametrize(("dim", "params"), [(192, 158_019), (384, 610_947), (768, 2_401_539)])
def test_params_of_phi(dim: int, params: int) -> None:
    assert count_params(Phi(dim)) == params == 4 * dim**2 + 55 * dim + 3


def test_skipped_blocks_hold_no_attention_and_no_norm1() -> None:
    keys = create_model("skipat_tiny_patch16_224").state_dict()
    for index in range(12):
        has_attention = any(key.startswith((f"blocks.{index}.attn.", f"blocks.{index}.norm1.")) for key in keys)
        has_phi = any(key.startswith(f"blocks.{index}.phi.") for key in keys)
        assert (has_attention, has_phi) == ((index not in range(3, 9)), (index in range(3, 9)))


# --- equations ---


def test_without_skips_it_is_timms_vit_bit_for_bit() -> None:
    ours, theirs = small(skip=()), timm.models.VisionTransformer(**SMALL).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(ours(images(2, 3, 8, 12)), theirs(images(2, 3, 8, 12)))
    mine = create_model("skipat_tiny_patch16_224", skip=()).eval()
    timms = timm.create_model("vit_tiny_patch16_224").eval()
    timms.load_state_dict(mine.state_dict(), strict=True)
    assert torch.equal(mine(images(2, 3, 224, 224)), timms(images(2, 3, 224, 224)))


def phi_by_hand(phi: Phi, z: Tensor, grid: tuple[int, int]) -> Tensor:
    """FC1, GELU, depthwise convolution on NCHW maps, GELU, FC2, ECA: written as in the released code."""
    y = F.gelu(phi.fc1(z)).transpose(1, 2).reshape(len(z), -1, *grid)  # (B, n, C) -> (B, C, H, W)
    y = F.gelu(phi.dwconv(y)).flatten(2).transpose(1, 2)
    y = phi.fc2(y)
    gate = torch.sigmoid(phi.eca(y.mean(dim=1, keepdim=True)))
    return y * gate


def logits_by_hand(model: SkipVisionTransformer, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """The paper's equations block by block, sharing only weights with the model."""
    p = model.num_prefix_tokens
    x = model._pos_embed(model.patch_embed(x))
    for index, block in enumerate(model.blocks):
        if index in model.spec.skip:
            z = torch.cat([z[:, :p], phi_by_hand(block.phi, z[:, p:], grid)], dim=1)  # noqa: F821 - block 0 computes
        else:
            z = block.attn(block.norm1(x))
        x = x + z
        x = x + block.mlp(block.norm2(x))
    return model.forward_head(model.norm(x))


@settings(max_examples=20, deadline=None)
@given(
    skip=st.sets(st.integers(1, 4)),
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    reg=st.integers(0, 2),
    B=st.integers(1, 3),
)
def test_logits_follow_the_equations(skip: set[int], h: int, w: int, reg: int, B: int) -> None:
    model = small(sorted(skip), img_size=(2 * h, 2 * w), reg_tokens=reg).double()
    for parameter in model.parameters():  # every bias, norm and gate away from its special starting value
        nn.init.normal_(parameter, std=0.2)
    x = images(B, 3, 2 * h, 2 * w, dtype=torch.float64)
    torch.testing.assert_close(model(x), logits_by_hand(model, x, (h, w)), rtol=1e-12, atol=1e-12)


def attention_outputs(model: SkipVisionTransformer, x: Tensor) -> list[Tensor]:
    """Ẑ after each block."""
    found: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _m, _i, out: found.append(out[1])) for block in model.blocks]
    model(x)
    for hook in hooks:
        hook.remove()
    return found


def test_prefix_rows_are_those_of_the_last_computed_attention() -> None:
    model = small(skip=(1, 2, 4), reg_tokens=1)
    z = attention_outputs(model, images(2, 3, 8, 12))
    assert torch.equal(z[1][:, :2], z[0][:, :2])
    assert torch.equal(z[2][:, :2], z[0][:, :2])
    assert torch.equal(z[4][:, :2], z[3][:, :2])
    assert not torch.equal(z[3][:, :2], z[0][:, :2])


def test_the_chain_restarts_after_a_computed_attention() -> None:
    model = small(skip=(1, 3))
    z = attention_outputs(model, images(1, 3, 8, 12))
    torch.testing.assert_close(z[3][:, 1:], phi_by_hand(model.blocks[3].phi, z[2][:, 1:], (4, 6)))


def test_phi_sees_the_grid_the_right_way_round() -> None:
    """A 4 x 6 grid read as 6 x 4 would give other numbers; one lit patch shows where the kernel reaches."""
    phi = Phi(1, expansion=1, kernel_size=3)
    for parameter in phi.parameters():
        nn.init.ones_(parameter)
    nn.init.zeros_(phi.fc1.bias)
    nn.init.zeros_(phi.dwconv.bias)
    nn.init.zeros_(phi.fc2.bias)
    z = torch.zeros(1, 4, 6, 1)
    z[0, 1, 2] = 1.0
    touched = phi(z)[0, :, :, 0] != 0
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[0:3, 1:4] = True
    assert torch.equal(touched, expected)


def test_drop_path_leaves_the_chain_alone() -> None:
    """Stochastic depth drops the residual branch, never the value that the next Φ reads."""
    model = small(skip=(2, 3), drop_path_rate=0.9).train()
    torch.manual_seed(3)
    z = attention_outputs(model, images(4, 3, 8, 12))
    torch.testing.assert_close(z[3][:, 1:], phi_by_hand(model.blocks[3].phi, z[2][:, 1:], (4, 6)))


# --- use as a timm model ---


def test_every_parameter_gets_a_gradient() -> None:
    model = small(skip=(1, 2, 3, 4)).train()
    model(images(2, 3, 8, 12)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_other_sizes_and_gradient_checkpointing() -> None:
    model = small(dynamic_img_size=True).train()
    x = images(2, 3, 14, 10)
    plain = model(x)
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(x), plain)


def test_features_only_and_intermediates() -> None:
    model = small(skip=(2, 4))
    x = images(2, 3, 8, 12)
    final, maps = model.forward_intermediates(x, indices=[1, 4], norm=True)
    assert [tuple(m.shape) for m in maps] == [(2, 24, 4, 6)] * 2
    torch.testing.assert_close(final, model.forward_features(x))
    tokens, prefix = model.forward_intermediates(
        x, indices=[5], norm=True, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
    )[0]
    torch.testing.assert_close(torch.cat([prefix, tokens], dim=1), final)
    pyramid = create_model("skipat_micro_patch2_8", features_only=True, out_indices=(1, 3))
    assert [tuple(m.shape) for m in pyramid(torch.zeros(1, 3, 8, 8))] == [(1, 64, 4, 4)] * 2


def test_weights_start_as_timms_do() -> None:
    model = create_model("skipat_tiny_patch16_224")
    for weight in (
        model.blocks[0].attn.qkv.weight,
        model.blocks[3].phi.fc1.weight,
        model.blocks[8].mlp.fc2.weight,
    ):
        assert 0.017 < float(weight.detach().std()) < 0.023
    assert not torch.any(model.blocks[3].phi.fc1.bias)


def test_bfloat16_autocast_and_channels_last() -> None:
    model = small()
    x = images(2, 3, 8, 12)
    expected = model(x)
    torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(x)
    torch.testing.assert_close(low.float(), expected, rtol=0.1, atol=0.05)


def test_export_and_compile_see_one_graph() -> None:
    model = small()
    program = torch.export.export(model, (images(2, 3, 8, 12),))
    ops = {str(node.target) for node in program.graph.nodes}
    assert {"skipvit.token_dwconv_gelu.default", "skipvit.eca_gate.default"} <= ops
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images(2, 3, 8, 12)), model(images(2, 3, 8, 12)))


# --- refusals ---


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"skip": (0, 1)}, "block 0 cannot skip"),
        ({"skip": (2, 6)}, r"names blocks \[6\], but the model has blocks 0 to 5"),
        ({"skip": (2, 2)}, "twice"),
        ({"skip": (3, 5)}, "block 5 is the last and cannot skip under a class-token head"),
        ({"skip": (2,), "patch_drop_rate": 0.5}, "patch_drop_rate"),
        ({"skip": (2,), "fix_init": True}, "fix_init"),
        ({"skip": (2,), "phi_kernel_size": 4}, "odd kernel size to keep the grid, got 4"),
        ({"skip": (2,), "phi_expansion": 0.0}, "no hidden channel"),
    ],
)
def test_impossible_models_are_refused(kwargs: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SkipVisionTransformer(**{**SMALL, **kwargs})


def test_the_last_block_may_skip_under_mean_pooling_until_the_head_is_changed() -> None:
    model = small(skip=(3, 5), global_pool="avg")
    model(images(1, 3, 8, 12)).sum().backward()
    assert model.blocks[5].phi.fc1.weight.grad is not None
    with pytest.raises(ValueError, match="class-token head"):
        model.reset_classifier(3, "token")


def test_inference_keeps_no_block_output_but_the_last() -> None:
    """Memory does not grow with depth: what a block gave is freed when the next is done with it."""
    alive: list[weakref.ref[Tensor]] = []
    model = small(skip=())
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _i, out: alive.append(weakref.ref(out[0])))
    peak = []
    model.blocks[-1].register_forward_hook(lambda *_: peak.append(sum(ref() is not None for ref in alive)))
    with torch.no_grad():
        model(images(1, 3, 8, 12))
    assert peak[0] <= 2


def test_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="attention masks cannot be honoured"):
        small()(images(1, 3, 8, 12), is_causal=True)


def test_unknown_names_come_with_suggestions() -> None:
    with pytest.raises(ValueError, match=r"'skipat_smal_patch16_224'; did you mean skipat_small_patch16_224"):
        create_model("skipat_smal_patch16_224")
