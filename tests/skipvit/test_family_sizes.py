"""The family at other picture sizes, cut off, and as a backbone of dense heads."""

import copy

import pytest
import torch

from skipvit.layers.token_pyramid import unpool
from skipvit.models import Choices, SkipVisionTransformer, create_model
from skipvit.models.timm_guard import timm
from tests.skipvit.small_vits import ALL, images, vit


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
