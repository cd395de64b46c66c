"""What torch and timm do with a model of the family: start, copy, compile, export, group its weights."""

import copy

import pytest
import torch

from skipvit.models import SkipVisionTransformer, create_model
from skipvit.models.timm_guard import timm
from tests.skipvit.small_vits import ALL, SMALL, images


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
