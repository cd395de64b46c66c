"""The family as whole models: specs mixed at will, against timm's ViT and the papers' equations written out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipvit.models import Choices, SkipVisionTransformer
from tests.skipvit.small_vits import ALL, SMALL, images, vit


def mean_attention(model: torch.nn.Module, x: Tensor) -> list[Tensor]:
    """Ā of every block of timm's ViT (h, N, N), computed outside of it."""
    found = []

    def note(attention: torch.nn.Module, args: tuple[Tensor]) -> None:
        (y,) = args
        qkv = attention.qkv(y).reshape(*y.shape[:2], 3, attention.num_heads, attention.head_dim)
        q, k, _ = qkv.permute(2, 0, 3, 1, 4)
        found.append((q @ k.transpose(-2, -1) * attention.scale).softmax(-1).mean(0).detach())

    hooks = [block.attn.register_forward_pre_hook(note) for block in model.blocks]
    model(x)
    for hook in hooks:
        hook.remove()
    return found


def test_an_empty_spec_is_timms_vit_bit_for_bit() -> None:
    plain = vit(init_values=0.5, reg_tokens=2)
    model = SkipVisionTransformer.from_vit(plain, "")
    assert torch.equal(model(images()), plain(images()))
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("class_row", ["static", "dynamic"])
def test_identical_images_make_the_calibrated_static_model_exact(class_row: str) -> None:
    plain, x = vit(), images(1).expand(3, -1, -1, -1)
    model = SkipVisionTransformer.from_vit(plain, "static:0-5", Choices(static_class_row=class_row))  # type: ignore[arg-type]
    for block, mean in zip(model.blocks, mean_attention(plain, x), strict=True):
        block.attn.inherit(mean)
    torch.testing.assert_close(model(x), plain(x), rtol=0, atol=1e-10)


def test_lambda_0_is_the_vit_and_lambda_1_the_static_model() -> None:
    plain, x = vit(), images(3)
    guided = SkipVisionTransformer.from_vit(plain, "static:0-3", Choices(static_guided=True))
    torch.testing.assert_close(guided(x), plain(x), rtol=0, atol=1e-10)
    model = SkipVisionTransformer.from_vit(plain, "static:0-3")
    missing, unexpected = model.load_state_dict(guided.state_dict(), strict=False)
    assert not missing
    assert all(".attn.qk." in key for key in unexpected)
    guided.set_guide(1.0)
    torch.testing.assert_close(guided(x), model(x), rtol=0, atol=1e-10)
    assert float(guided.guide_loss().detach()) > 0


def test_a_pyramid_of_all_tokens_and_the_identity_changes_nothing() -> None:
    plain = vit()
    model = SkipVisionTransformer.from_vit(plain, "tokens:24@2,24@4")
    for pyramid in model.pyramids.values():
        pyramid.inherit(torch.eye(24, dtype=torch.float64))
    torch.testing.assert_close(model(images()), plain(images()), rtol=0, atol=1e-10)


def logits_by_hand(model: SkipVisionTransformer, x: Tensor, static: set[int], skip: set[int]) -> Tensor:
    """ALL's equations, with nothing of the family's forward pass."""
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(x)))
    grids = {2: (4, 3), 4: (2, 3)}
    grid, z = (4, 6), torch.zeros(0, dtype=x.dtype)
    for index, block in enumerate(model.blocks):
        if index in grids:
            matrix = model.pyramids[str(index)].logits.softmax(-1)
            tokens = torch.cat([tokens[:, :1], matrix @ tokens[:, 1:]], 1)
            z = torch.cat([z[:, :1], matrix @ z[:, 1:]], 1)
            grid = grids[index]
        if index in skip:
            z = torch.cat([z[:, :1], block.phi(z[:, 1:].unflatten(1, grid)).flatten(1, 2)], 1)
        else:
            attention, y = block.attn, block.norm1(tokens)
            if index in static:
                v = attention.v(y).reshape(len(y), -1, 3, 8).transpose(1, 2)
                a = attention.logits.softmax(-1)
            else:
                q, k, v = attention.qkv(y).reshape(len(y), -1, 3, 3, 8).permute(2, 0, 3, 1, 4)
                a = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1)
            z = attention.proj((a @ v).transpose(1, 2).reshape(y.shape))
        tokens = tokens + z
        tokens = tokens + block.mlp(block.norm2(tokens))
    return model.head(model.norm(tokens)[:, 0])


def test_static_skipped_and_pooled_blocks_together_follow_the_equations() -> None:
    model = SkipVisionTransformer.from_vit(vit(), ALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64))
    found = model(images())
    torch.testing.assert_close(found, logits_by_hand(model, images(), {0, 1}, {3, 4}), rtol=0, atol=1e-10)


@given(
    kinds=st.lists(st.sampled_from(["dynamic", "static", "skip"]), min_size=4, max_size=4),
    cuts=st.sets(st.integers(0, 5), max_size=3),
    pyramid=st.sampled_from(["static", "content"]),
    prefix=st.integers(0, 2),
)
@settings(max_examples=25, deadline=None)
def test_any_mix_runs_forward_and_back(kinds: list[str], cuts: set[int], pyramid: str, prefix: int) -> None:
    blocks = {kind: [str(i + 1) for i, k in enumerate(kinds) if k == kind] for kind in ("static", "skip")}
    sizes = [f"{size}@{block}" for size, block in zip((12, 6, 2), sorted(cuts), strict=False)]
    parts = {**blocks, "tokens": sizes}
    spec = " ".join(f"{name}:{','.join(items)}" for name, items in parts.items() if items)
    options = {"class_token": prefix > 0, "reg_tokens": max(0, prefix - 1), "global_pool": "token" if prefix else "avg"}
    model = SkipVisionTransformer(**SMALL, **options, spec=spec, pyramid=pyramid).train()
    logits = model(torch.randn(2, 3, 8, 12))
    logits.square().sum().backward()
    assert logits.shape == (2, 5)
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_class_and_register_tokens_pass_a_pyramid_untouched() -> None:
    model = SkipVisionTransformer.from_vit(vit(reg_tokens=1), "tokens:6@0")
    tokens, grid = model._embed(images())
    seen = []
    hook = model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(images())
    hook.remove()
    assert grid == (4, 6)
    assert torch.equal(seen[0][:, :2], tokens[:, :2])
    assert seen[0].shape == (2, 2 + 6, 24)


def test_layer_scale_and_drop_path_act_after_the_value_that_is_reused() -> None:
    """Ẑ is the attention output itself; only its way into the residual stream is scaled and dropped."""
    model = SkipVisionTransformer.from_vit(vit(init_values=0.5, drop_path_rate=0.5), "static:0 skip:2")
    for block in model.blocks:
        for part in (block.drop_path1, block.drop_path2):
            if hasattr(part, "drop_prob"):
                part.forward = lambda x: 3 * x  # no chance in a test
    x, grid = model._embed(images())
    z = torch.zeros(0)
    for index, block in enumerate(model.blocks):
        again, handed_on = block(x, z, grid)
        if index == 2:
            z = torch.cat([z[:, :1], block.phi(z[:, 1:].unflatten(1, grid)).flatten(1, 2)], dim=1)
        else:
            z = block.attn(block.norm1(x))
        times = 3 if index else 1  # the first block is never dropped
        x = x + times * block.ls1.gamma * z
        x = x + times * block.ls2.gamma * block.mlp(block.norm2(x))
        torch.testing.assert_close(handed_on, z, rtol=0, atol=1e-12)
        torch.testing.assert_close(again, x, rtol=0, atol=1e-10)


def test_static_attention_keeps_the_norm_and_the_dropout_around_the_projection() -> None:
    plain, x = vit(scale_attn_norm=True, proj_drop_rate=0.5), images(1)
    model = SkipVisionTransformer.from_vit(plain, "static:0-5")
    for block, mean in zip(model.blocks, mean_attention(plain, x), strict=True):
        block.attn.inherit(mean)
    torch.testing.assert_close(model(x), plain(x), rtol=0, atol=1e-10)
    attention = model.blocks[0].attn.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert 0.2 < float((attention(torch.randn(4, 25, 24, dtype=torch.float64)) == 0).double().mean()) < 0.8
