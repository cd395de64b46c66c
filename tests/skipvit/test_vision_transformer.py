"""The family as whole models: specs mixed at will, against timm's ViT and the papers' equations written out."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipvit.complexity import count_macs, count_params
from skipvit.layers.token_pyramid import unpool
from skipvit.models import Choices, SkipVisionTransformer, create_model
from skipvit.models.timm_guard import timm

SMALL = {"img_size": (8, 12), "patch_size": 2, "embed_dim": 24, "depth": 6, "num_heads": 3, "num_classes": 5}
ALL = "static:0-1 skip:3-4 tokens:12@2,6@4"


def vit(**kwargs: object) -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(**{**SMALL, **kwargs})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.double().eval()


def images(batch: int = 2, h: int = 8, w: int = 12) -> Tensor:
    return torch.randn(batch, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


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


# --- figures of PAPERS: closed forms ---


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


# --- equations ---


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
            z = torch.cat([z[:, :1], block.phi(z[:, 1:].contiguous(), grid)], 1)
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
            z = torch.cat([z[:, :1], block.phi(z[:, 1:].contiguous(), grid)], dim=1)
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


# --- dense heads, other sizes, cutting off ---


def test_intermediate_maps_are_unpooled_to_the_pictures_grid() -> None:
    model = SkipVisionTransformer.from_vit(vit(), "tokens:12@2,6@4")
    _, maps = model.forward_intermediates(images(), indices=[1, 3, 5])
    assert [m.shape for m in maps] == [(2, 24, 4, 6)] * 3
    assert all(m.is_contiguous() for m in maps)
    _, tokens = model.forward_intermediates(images(), indices=[5], output_fmt="NLC")
    steps = list(model._run_blocks(*model._embed(images())))
    first, second = (model.pyramids[key].matrix() for key in ("2", "4"))
    torch.testing.assert_close(tokens[0], unpool(unpool(steps[5].tokens[:, 1:], second), first))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize("output_fmt", ["NCHW", "NLC"])
@pytest.mark.parametrize("output_dict", [False, True])
def test_intermediates_are_timms_under_every_option(
    norm: bool, stop_early: bool, output_fmt: str, output_dict: bool
) -> None:
    plain = vit(reg_tokens=1)
    model = SkipVisionTransformer.from_vit(plain, "")
    fixed = {"norm": norm, "stop_early": stop_early, "output_fmt": output_fmt, "output_dict": output_dict}
    for indices in (None, 2, [0, -2], [3]):
        for prefix in (False, True):
            for only in (False, True):
                options = {**fixed, "indices": indices, "return_prefix_tokens": prefix, "intermediates_only": only}
                found = model.forward_intermediates(images(), **options)
                expected = plain.forward_intermediates(images(), **options)
                assert type(found) is type(expected)
                torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_stopping_early_computes_no_later_block() -> None:
    model = SkipVisionTransformer.from_vit(vit(), ALL)
    runs: list[int] = []
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, index=index: runs.append(index))
    model.forward_intermediates(images(), indices=[2], stop_early=True)
    assert runs == [0, 1, 2]


def test_features_only_cuts_the_spec_off_with_the_blocks() -> None:
    model = timm.create_model("dgssa_glad_micro_patch2_8", features_only=True, out_indices=(0, 3))
    maps = model(torch.zeros(1, 3, 8, 8))
    assert [m.shape for m in maps] == [(1, 64, 4, 4)] * 2


@pytest.mark.parametrize("pyramid", ["static", "content"])
def test_another_picture_size_takes_the_matrices_along(pyramid: str) -> None:
    options = Choices(pyramid=pyramid)  # type: ignore[arg-type]
    model = SkipVisionTransformer.from_vit(vit(), "static:0-1,3 skip:4 tokens:1/2@2", options)
    with pytest.raises((ValueError, AssertionError)):
        model(images(h=16, w=16))
    smaller = model(images())
    model.set_input_size((16, 16))
    assert model(images(h=16, w=16)).shape == (2, 5)
    for module in (model.blocks[0].attn, model.blocks[3].attn):
        torch.testing.assert_close(module.matrix().sum(-1), torch.ones(3, module.num_tokens, dtype=torch.float64))
    model.set_input_size((8, 12))
    assert model(images()).shape == smaller.shape


@pytest.mark.parametrize("form", ["dense", "factorised"])
@pytest.mark.parametrize("pyramid", ["static", "content"])
def test_the_same_picture_size_changes_no_weight(form: str, pyramid: str) -> None:
    options = Choices(pyramid=pyramid, static_form=form)  # type: ignore[arg-type]
    model = SkipVisionTransformer.from_vit(vit(), "static:0-1,3 skip:4 tokens:1/2@2", options)
    before = copy.deepcopy(model.state_dict())
    model.set_input_size((8, 12))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_picture_size_that_the_spec_does_not_fit_leaves_the_model_as_it_was() -> None:
    model = SkipVisionTransformer.from_vit(vit(), "static:0 tokens:20@2")
    before = model(images())
    with pytest.raises(ValueError, match="20 is more than the 16 patch tokens"):
        model.set_input_size((8, 8))
    assert torch.equal(model(images()), before)


@pytest.mark.parametrize("form", ["dense", "factorised"])
def test_what_was_frozen_stays_so_at_another_picture_size(form: str) -> None:
    options = Choices(pyramid="content", static_form=form)  # type: ignore[arg-type]
    model = SkipVisionTransformer.from_vit(vit(), "static:0 tokens:1/2@2", options).requires_grad_(False)
    model.set_input_size((16, 16))
    assert not [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_matrices_learnt_on_a_picture_size_keep_their_meaning_on_twice_that() -> None:
    """A matrix that pools and one that looks at its own place do so on the finer grid too."""
    model = SkipVisionTransformer.from_vit(vit(), "static:0 tokens:6@1")
    model.blocks[0].attn.inherit(torch.eye(25, dtype=torch.float64).expand(3, -1, -1))
    model.set_input_size((16, 24))
    assert model.pyramids["1"].grid_in == (8, 12)
    assert model.pyramids["1"].grid_out == (2, 3)
    looks = model.blocks[0].attn.matrix()[:, 1:, 1:].detach().reshape(3, 8, 12, 8, 12)
    pools = model.pyramids["1"].matrix().detach().reshape(2, 3, 8, 12)
    rows, columns = torch.meshgrid(torch.arange(8.0).double(), torch.arange(12.0).double(), indexing="ij")
    for where, along in ((rows, 8), (columns, 12)):
        centre = (looks * where).sum((-2, -1))  # of what each patch looks at
        assert float((centre - where).abs().max()) <= 1.0, along
    torch.testing.assert_close((pools * rows).sum((-2, -1))[:, 0], torch.tensor([1.5, 5.5]).double(), atol=0.1, rtol=0)
    torch.testing.assert_close(
        (pools * columns).sum((-2, -1))[0], torch.tensor([1.5, 5.5, 9.5]).double(), atol=0.1, rtol=0
    )


def test_a_checkpoint_of_another_token_count_is_refused() -> None:
    model, other = (create_model("dgssa_micro_patch2_8", img_size=size) for size in (8, 12))
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(other.state_dict())


# --- where models come from ---


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
    tokens = torch.randn(2, 24, 24, dtype=torch.float64)
    phi = model.blocks[2].phi
    if kind == "identity":
        assert torch.equal(phi(tokens, (4, 6)), tokens)
    else:
        picture = tokens.transpose(1, 2).reshape(2, 24, 4, 6)
        expected = F.conv2d(picture, phi.dwconv.weight, phi.dwconv.bias, padding=2, groups=24)
        torch.testing.assert_close(phi(tokens, (4, 6)), expected.flatten(2).transpose(1, 2))


def test_decay_leaves_matrices_alone() -> None:
    kept = create_model("dgssa_glad_micro_patch2_8").no_weight_decay()
    assert {"blocks.0.attn.logits", "pyramids.2.logits", "pos_embed"} <= kept
    assert {"blocks.0.attn.left", "blocks.0.attn.right"} <= create_model(
        "dgssa_micro_patch2_8", static_form="factorised"
    ).no_weight_decay()


# --- what torch does with such a model ---


@pytest.mark.parametrize("mode", ["", "jax", "jax_nlhb", "moco", "reset"])
def test_the_parts_that_are_timms_start_as_timms(mode: str) -> None:
    torch.manual_seed(0)
    theirs = timm.models.VisionTransformer(**SMALL, weight_init=mode)
    torch.manual_seed(0)
    ours = SkipVisionTransformer(**SMALL, weight_init=mode)
    assert ours.weight_init_mode == theirs.weight_init_mode
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("pyramid", ["static", "content"])
@pytest.mark.parametrize("form", ["dense", "factorised"])
def test_a_model_planned_on_the_meta_device_starts_as_any(pyramid: str, form: str) -> None:
    options = {"spec": ALL, "pyramid": pyramid, "static_form": form, "static_guided": True}
    with torch.device("meta"):
        model = SkipVisionTransformer(**SMALL, **options)
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(float("nan"))
    model.init_weights()
    other = SkipVisionTransformer(**SMALL, **options)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        expected = other.get_parameter(name) if name in dict(other.named_parameters()) else other.get_buffer(name)
        assert bool(torch.isfinite(tensor).all()), name
        if "pyramids" in name or "guide" in name:
            torch.testing.assert_close(tensor, expected)


MIXES = [("static", "static"), ("content", "dynamic")]


def mixed(pyramid: str, class_row: str) -> SkipVisionTransformer:
    torch.manual_seed(0)
    return SkipVisionTransformer(**SMALL, spec=ALL, pyramid=pyramid, static_class_row=class_row).eval()


@pytest.mark.parametrize(("pyramid", "class_row"), MIXES)
def test_export_and_compile_see_one_graph(pyramid: str, class_row: str) -> None:
    model, x = mixed(pyramid, class_row), images().float()
    ops = {str(node.target) for node in torch.export.export(model, (x,)).graph.nodes}
    assert {"skipvit.static_attention.default", "skipvit.token_pyramid.default"} <= ops
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize(("pyramid", "class_row"), MIXES)
def test_bfloat16_autocast_channels_last_and_checkpointing(pyramid: str, class_row: str) -> None:
    model, x = mixed(pyramid, class_row), images().float()
    expected = model(x)
    torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(x).float(), expected, rtol=0.1, atol=0.05)
    model.train().set_grad_checkpointing()
    torch.testing.assert_close(model(x), expected)


def test_a_guided_model_can_be_copied_after_a_step() -> None:
    model = SkipVisionTransformer(**SMALL, spec="static:0-1", static_guided=True).train()
    (model(images().float()).sum() + model.guide_loss()).backward()
    assert copy.deepcopy(model).state_dict().keys() == model.state_dict().keys()


def test_layer_decay_puts_a_pyramid_with_its_block() -> None:
    model = create_model("glad_micro_patch2_8")
    groups = timm.models.group_parameters(model, model.group_matcher())
    of = {name: index for index, names in groups.items() for name in names}
    assert of["pyramids.2.logits"] == of["blocks.2.norm1.weight"]
    assert of["blocks.1.norm1.weight"] < of["pyramids.2.logits"]


@pytest.mark.parametrize("strength", [-0.1, 7.0, float("nan")])
def test_a_guide_is_a_share(strength: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        create_model("dgssa_micro_patch2_8", static_guided=True).set_guide(strength)


def test_a_converted_vits_phi_starts_as_in_a_model_from_scratch() -> None:
    phi = create_model("converted_vit", base="vit_tiny_patch16_224", spec="skip:5").blocks[5].phi
    for linear in (phi.fc1, phi.fc2):
        assert 0.018 < float(linear.weight.detach().std()) < 0.022
        assert not torch.any(linear.bias)
