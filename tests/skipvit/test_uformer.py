"""Uformer against its formulas, its published figures, and the sizes that pictures have."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skipvit.checkpoints import Checkpoint, load_model, save_checkpoint
from skipvit.complexity import count_params
from skipvit.models import Uformer, create_model
from skipvit.models.timm_guard import timm
from skipvit.weights import MismatchError, load_weights, read_state
from tests.skipvit.uformer_by_formulas import expected_shapes, uformer

HEADS = (1, 2, 2, 2, 1)
# Two levels, windows of 2 that are shifted, and a multiple of 8 pixels.
SMALL: dict[str, Any] = {"embed_dim": 4, "depths": (2, 3, 2, 3, 2), "num_heads": HEADS, "window": 2}
PAPER = {
    "tiny": (16, (2, 2, 2, 2, 2, 2, 2, 2, 2)),
    "small": (32, (2, 2, 2, 2, 2, 2, 2, 2, 2)),
    "base": (32, (1, 2, 8, 8, 2, 8, 8, 2, 1)),
}
PAPER_HEADS = (1, 2, 4, 8, 16, 16, 8, 4, 2)


def small(**kwargs: Any) -> Any:
    """A model all of whose weights say something, the output convolution's too."""
    model = Uformer(**{**SMALL, **kwargs}).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4)
    return model


def pictures(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


# --- the formulas ---


@pytest.mark.parametrize(
    "skipat",
    [
        {},
        {"skip": "all"},
        {"skip": "all", "phi_proj": False},
        {"skip": "odd", "phi_expansion": 1.0, "phi_proj": False},
        {"skip": "0.1-2,1.0", "phi_kernel_size": 3},
    ],
    ids=str,
)
def test_it_is_its_formulas(skipat: dict[str, Any]) -> None:
    model = small(**skipat)
    x = pictures(1, 3, 16, 24)
    expected = uformer(x[0], model.state_dict(), HEADS, w=2)
    torch.testing.assert_close(model(x)[0], expected, rtol=1e-10, atol=1e-10)
    assert float((expected - x[0]).abs().mean()) > 0.01


def test_it_is_its_formulas_in_one_window_and_without_modulators() -> None:
    model = small(modulator=False, window=4, depths=(2, 1, 2), num_heads=(2, 2, 4))
    assert not any("modulator" in name for name, _ in model.named_parameters())
    x = pictures(1, 3, 8, 8)
    torch.testing.assert_close(model(x)[0], uformer(x[0], model.state_dict(), (2, 2, 4), w=4), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", PAPER)
def test_names_and_shapes_are_the_released_ones(size: str) -> None:
    with torch.device("meta"):
        model = create_model(f"uformer_{size}")
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == expected_shapes(*PAPER[size], PAPER_HEADS)


def test_a_released_file_loads(tmp_path: Path) -> None:
    model = create_model("uformer_tiny")
    generator = torch.Generator().manual_seed(0)
    theirs = {
        "module." + name: model.state_dict()[name]
        if name.endswith("index")
        else torch.randn(shape, generator=generator)
        for name, shape in expected_shapes(*PAPER["tiny"], PAPER_HEADS).items()
    }
    torch.save({"epoch": 250, "state_dict": theirs, "optimizer": {"state": {}}}, tmp_path / "uformer_t.pth")
    load_weights(model, read_state(tmp_path / "uformer_t.pth").tensors, "uformer_t.pth")
    assert all(torch.equal(tensor, theirs["module." + name]) for name, tensor in model.state_dict().items())


def test_an_index_that_reads_outside_of_the_table_is_refused() -> None:
    model = small()
    state = dict(model.state_dict())
    name = "conv.blocks.0.attn.relative_position_index"
    state[name] = torch.full_like(state[name], 10**6)
    with pytest.raises(MismatchError, match=f"{name} is not that of 2 x 2 windows"):
        load_weights(model, state, "a stranger's file")


# --- sizes ---


@settings(max_examples=25, deadline=None)
@given(B=st.integers(1, 2), H=st.integers(1, 40), W=st.integers(1, 40), skip=st.sampled_from(["", "all"]))
def test_any_size_comes_back_and_is_the_padded_picture_cropped(B: int, H: int, W: int, skip: str) -> None:
    model, x = small(skip=skip), pictures(B, 3, H, W)
    with torch.no_grad():
        y = model(x)
        padded = np.pad(x.numpy(), ((0, 0), (0, 0), (0, -H % 8), (0, -W % 8)), mode="reflect")
        expected = model(torch.from_numpy(padded))[:, :, :H, :W]
    assert y.shape == x.shape
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["uformer_micro", "skipat_uformer_micro"])
def test_it_starts_as_the_identity(name: str) -> None:
    x = pictures(2, 3, 33, 70).float()
    assert torch.equal(create_model(name).eval()(x), x)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes pictures \(B, 3, H, W\), got"):
        small()(torch.zeros(shape, dtype=torch.float64))


def test_pictures_of_other_channels() -> None:
    assert create_model("skipat_uformer_micro", in_chans=1)(torch.zeros(1, 1, 8, 40)).shape == (1, 1, 8, 40)


# --- the presets ---


def test_timm_builds_them() -> None:
    model = timm.create_model("skipat_uformer_micro")
    assert isinstance(model, Uformer)
    assert (model.task, model.multiple, model.skip) == ("denoising", 32, "all")
    assert create_model("uformer_tiny").multiple == 128
    with pytest.raises(ValueError, match=r"did you mean .*uformer_micro"):
        create_model("uformer_mirco")


def test_parameters_are_the_published_ones() -> None:
    with torch.device("meta"):
        counted = {size: count_params(create_model(f"uformer_{size}")) for size in ("micro", *PAPER)}
    assert counted == {"micro": 200_752, "tiny": 5_291_853, "small": 20_751_197, "base": 50_880_946}
    assert count_params(create_model("skipat_uformer_micro")) == 182_576


def test_drop_path_rises_to_the_bottleneck_and_falls_after_it() -> None:
    model = Uformer(**{**SMALL, "drop_path_rate": 0.4, "skip": "odd"})
    rates = [
        getattr(block.drop_path, "drop_prob", 0.0)
        for name in ("encoderlayer_0", "encoderlayer_1", "conv", "decoderlayer_0", "decoderlayer_1")
        for block in model.get_submodule(name).blocks
    ]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.3, 0.2, 0.1, 0])


def test_weights_start_as_the_paper_starts_them() -> None:
    model = create_model("uformer_micro")
    block = model.decoderlayer_0.blocks[0]
    for weight in (block.attn.qkv.to_kv.weight, block.mlp.linear2[0].weight, block.attn.relative_position_bias_table):
        assert 0.017 < float(weight.detach().std()) < 0.023
    assert not torch.any(block.mlp.linear1[0].bias)
    assert not torch.any(model.output_proj.proj[0].weight)


def test_decay_leaves_positions_alone() -> None:
    kept = create_model("uformer_micro").no_weight_decay()
    assert len(kept) == 5 + 2
    assert {"decoderlayer_0.blocks.0.modulator.weight", "conv.blocks.0.attn.relative_position_bias_table"} <= kept


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"depths": (1, 1), "num_heads": (1, 1)}, "as many encoder as decoder stages"),
        ({"depths": (1, 1, 1), "num_heads": (1, 1)}, "number of heads for each"),
        ({"depths": (1, 0, 1), "num_heads": (1, 1, 1)}, "a block in each stage"),
        ({"num_heads": (3, 2, 2, 2, 1)}, "4 channels cannot be split into 3 heads"),
    ],
)
def test_impossible_models_are_refused(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Uformer(**{**SMALL, **kwargs})


def test_skipat_without_skipping_is_the_plain_model_bit_for_bit() -> None:
    plain, skipping = create_model("uformer_micro").eval(), create_model("skipat_uformer_micro", skip="").eval()
    nn.init.normal_(plain.output_proj.proj[0].weight, std=0.1)
    skipping.load_state_dict(plain.state_dict())
    x = pictures(1, 3, 32, 40).float()
    assert torch.equal(skipping(x), plain(x))


def test_skipped_blocks_own_phi_and_no_attention() -> None:
    model = small(skip="1.0")
    first, second = model.decoderlayer_1.blocks
    assert {name.split(".")[0] for name, _ in first.named_parameters()} == {"phi", "proj", "norm2", "mlp"}
    assert {name.split(".")[0] for name, _ in second.named_parameters()} == {
        "modulator", "norm1", "attn", "norm2", "mlp"
    }  # fmt: skip


def test_only_the_attention_that_is_reused_is_kept() -> None:
    """What a stage hands over is what the decoder's stage of its resolution asks for."""
    model = small(skip="0.1-2")
    kept: dict[int, Any] = {}
    for level in (0, 1):
        stage = getattr(model, f"encoderlayer_{level}")
        stage.register_forward_hook(lambda _m, _i, out, level=level: kept.update({level: sorted(out[1])}))
    model(pictures(1, 3, 8, 8))
    assert kept == {0: [], 1: [1, 2]}


def test_a_checkpoint_brings_it_back(tmp_path: Path) -> None:
    sizes = {"embed_dim": 4, "num_heads": [1, 1, 2, 1, 1], "skip": "1", "phi_proj": True}
    model = create_model("skipat_uformer_micro", **sizes).eval()
    nn.init.normal_(model.output_proj.proj[0].weight, std=0.1)
    description = Checkpoint(
        task="denoising", architecture="skipat_uformer_micro", model_args=sizes, recipe={}, epochs=0, versions={},
        commit="",
    )  # fmt: skip
    save_checkpoint(tmp_path, model.state_dict(), description)
    again, _ = load_model(tmp_path)
    x = pictures(1, 3, 20, 33).float()
    assert torch.equal(again(x), model(x))


# --- training, compilers ---


@pytest.mark.parametrize("skip", ["", "all", "odd"])
def test_gradients_reach_every_weight(skip: str) -> None:
    model = small(skip=skip, drop_path_rate=0.0).train()
    model(pictures(1, 3, 16, 8)).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not torch.any(p.grad)]
    assert silent == []


@pytest.mark.parametrize("skip", ["", "all"])
def test_bfloat16_autocast_stays_near(skip: str) -> None:
    torch.manual_seed(0)
    model = create_model("uformer_micro", skip=skip).eval()
    nn.init.normal_(model.output_proj.proj[0].weight, std=0.05)
    x = pictures(1, 3, 32, 64).float()
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(x)
    torch.testing.assert_close(low.float(), expected, rtol=0.05, atol=0.05)


SHALLOW: dict[str, Any] = {"depths": (2, 1, 2), "num_heads": (1, 2, 1), "window": 4}


@pytest.mark.slow
def test_export_takes_any_size_and_batch() -> None:
    """Height and width are free multiples; the masks of shifted windows follow them."""
    model = small(**SHALLOW, skip="even")
    batch, rows, columns = (torch.export.Dim(name, min=1, max=64) for name in ("batch", "rows", "columns"))
    shapes = ({0: batch, 2: 8 * rows, 3: 8 * columns},)
    exported = torch.export.export(model, (pictures(2, 3, 16, 24),), dynamic_shapes=shapes)
    # Its guards exclude a batch of 1, which the sample was not; the graph, which is all that ONNX keeps, does not.
    program = exported.module(check_guards=False)
    for shape in ((1, 3, 8, 8), (3, 3, 40, 16), (2, 3, 16, 24)):
        torch.testing.assert_close(program(pictures(*shape)), model(pictures(*shape)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 16, 8), (1, 3, 13, 9)])
def test_compile_sees_one_graph(shape: tuple[int, ...]) -> None:
    model = small(**SHALLOW, skip="odd")
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(pictures(*shape)), model(pictures(*shape)))
