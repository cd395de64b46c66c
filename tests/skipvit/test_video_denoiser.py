"""The video denoiser: what it promises of shapes, of time, and of the attention that its SkipAt twin reuses."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skipvit.complexity import count_macs, count_params
from skipvit.layers.space_time_blocks import AttentionBlock
from skipvit.models import VideoDenoiser, create_model

SMALL: dict[str, Any] = {
    "frames": 3,
    "patch": 2,
    "dims": (8, 12, 16),
    "depths": (1, 2, 1),
    "num_heads": (0, 2, 4),
    "window": 2,
}


def model(**kwargs: Any) -> VideoDenoiser:
    """A small one in double precision, with weights that are neither zero nor symmetric."""
    torch.manual_seed(0)
    built = VideoDenoiser(**{**SMALL, **kwargs}).double().eval()
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.2)
    return built


def clips(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 2), height=st.integers(1, 40), width=st.integers(1, 40), reuse=st.booleans())
def test_takes_any_height_and_width(batch: int, height: int, width: int, reuse: bool) -> None:
    x = clips(batch, 3, 4, height, width)
    with torch.no_grad():
        assert model(reuse=reuse)(x).shape == (batch, 3, 3, height, width)


def test_pads_by_reflection_at_the_far_edges() -> None:
    denoiser = model()
    assert denoiser.multiple == 16
    x = clips(1, 3, 4, 13, 20)
    whole = nn.functional.pad(x.flatten(0, 1), (0, 12, 0, 3), mode="reflect").unflatten(0, (1, 3))
    torch.testing.assert_close(denoiser(x), denoiser(whole)[..., :13, :20])


def test_sigma_is_a_constant_fourth_channel() -> None:
    denoiser, x, sigma = model(), clips(2, 3, 3, 16, 16), torch.tensor([12.75, 51.0], dtype=torch.float64)
    level = torch.tensor([0.05, 0.2], dtype=torch.float64).view(2, 1, 1, 1, 1).expand(2, 3, 1, 16, 16)
    y = denoiser(x, sigma)
    assert torch.equal(y, denoiser(torch.cat([x, level], dim=2)))
    assert not torch.allclose(y, denoiser(x, sigma / 2))


def test_starts_as_the_identity() -> None:
    x = torch.rand(1, 3, 4, 16, 16)
    assert torch.equal(VideoDenoiser(**SMALL)(x), x[:, :, :3])


@pytest.mark.parametrize("reuse", [False, True])
def test_a_causal_one_does_not_see_later_frames(reuse: bool) -> None:
    """Bit for bit; and each frame does depend on itself and on the one before."""
    denoiser, x = model(causal=True, reuse=reuse).float(), clips(1, 3, 4, 16, 16).float()
    y = denoiser(x)
    for t in range(3):
        changed = x.clone()
        changed[:, t] += torch.rand(4, 16, 16)
        found = denoiser(changed)
        assert torch.equal(found[:, :t], y[:, :t])
        assert not torch.isclose(found[:, t:], y[:, t:]).flatten(2).all(dim=-1).any()


def test_others_see_the_whole_clip() -> None:
    denoiser, x = model(), clips(1, 3, 4, 16, 16)
    changed = x.clone()
    changed[:, 2] += 0.5
    assert not torch.isclose(denoiser(changed)[:, 0], denoiser(x)[:, 0]).any(dim=-1).all()


def test_a_single_frame_has_no_time() -> None:
    denoiser = model(frames=1)
    assert {m.kernel_size[0] for m in denoiser.modules() if isinstance(m, nn.Conv3d)} == {1}
    x = clips(2, 1, 4, 16, 16)
    assert denoiser(x).shape == (2, 1, 3, 16, 16)
    torch.testing.assert_close(denoiser(x)[1:], denoiser(x[1:]))


def test_the_decoder_takes_the_encoders_matrix_itself() -> None:
    """Decoder block i is called with the very tensor that encoder block i of its resolution computed."""
    denoiser = model(reuse=True)
    computed: list[Tensor] = []
    taken: list[Tensor] = []
    blocks: list[Any] = [*denoiser.encoder[1], *denoiser.decoder[1]]  # type: ignore[misc] - they are lists
    for block in blocks[:2]:
        block.register_forward_hook(lambda _, inputs, outputs: computed.append(outputs[1]))
    for block in blocks[2:]:
        assert not hasattr(block.attn, "qk")
        block.attn.register_forward_hook(lambda _, inputs, outputs: taken.append(inputs[1]))
    denoiser(clips(2, 3, 4, 16, 32))
    assert [matrix.shape for matrix in computed] == [(2 * 2 * 4, 2, 12, 12)] * 2
    assert [a is b for a, b in zip(taken, computed, strict=True)] == [True, True]
    for matrix in computed:
        torch.testing.assert_close(matrix.sum(dim=-1), torch.ones_like(matrix[..., 0]))


def test_without_reuse_the_decoder_computes_its_own() -> None:
    plain, skipping = model(), model(reuse=True)
    attentions = [module for module in plain.decoder.modules() if isinstance(module, AttentionBlock)]
    assert len(attentions) == 2
    assert all(hasattr(block.attn, "qk") for block in attentions)
    # 12 channels: queries, keys and their biases, and a table of biases for 5 x 3 x 3 offsets and 2 heads, in 2 blocks
    assert count_params(plain) - count_params(skipping) == 2 * (2 * 12 * 12 + 2 * 12 + 5 * 3 * 3 * 2)


@pytest.mark.parametrize("name", ["video_denoiser_micro", "video_denoiser_small"])
def test_the_skipat_twin_saves_queries_keys_and_scores(name: str) -> None:
    """Per reused block: 2 C² a token for queries and keys, and N C for their products."""
    with torch.device("meta"):
        plain, skipping = create_model(name), create_model(f"skipat_{name}")
        assert isinstance(plain, VideoDenoiser)
        side = plain.multiple
        x = torch.empty(1, plain.frames, 4, side, side)
        saved = count_macs(plain, x) - count_macs(skipping, x)
    dim, blocks, window = {"micro": (64, 1, 4), "small": (128, 8, 6)}[name.rpartition("_")[2]]
    tokens, others = plain.frames * (side // 4) ** 2, plain.frames * window**2
    assert saved == blocks * tokens * (2 * dim * dim + others * dim)
    assert skipping.task == "video-denoising"


@pytest.mark.parametrize(
    ("name", "params", "gmacs"),
    [
        ("video_denoiser_micro", 269_999, 4.05),
        ("skipat_video_denoiser_micro", 259_915, 3.98),
        ("video_denoiser_small", 4_070_620, 45.63),
        ("skipat_video_denoiser_small", 3_756_092, 40.91),
    ],
)
def test_sizes(name: str, params: int, gmacs: float) -> None:
    """Parameters, and GMACs of one clip of 128 x 128 pixels."""
    with torch.device("meta"):
        built = create_model(name)
        x = torch.empty(1, built.frames, 4, 128, 128)
        assert count_params(built) == params
        assert round(count_macs(built, x) / 1e9, 2) == gmacs


def test_exports_with_dynamic_batch_height_and_width() -> None:
    denoiser = model(dims=(4, 8), depths=(1, 1), num_heads=(2, 2), reuse=True)
    dims = {
        0: torch.export.Dim("batch", min=1),
        3: 8 * torch.export.Dim("rows", min=2),
        4: 8 * torch.export.Dim("columns", min=2),
    }
    program = torch.export.export(denoiser, (clips(2, 3, 4, 24, 16),), dynamic_shapes={"clip": dims})
    assert len(program.graph.find_nodes(op="call_function", target=torch.ops.skipvit.reused_attention.default)) == 3
    for shape in ((1, 3, 4, 16, 32), (3, 3, 4, 24, 24)):
        torch.testing.assert_close(program.module()(clips(*shape)), denoiser(clips(*shape)))


def test_every_weight_gets_a_gradient() -> None:
    for reuse in (False, True):
        denoiser = model(reuse=reuse)
        with torch.enable_grad():
            denoiser(clips(1, 3, 4, 16, 16)).square().mean().backward()
        assert [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("shape", "sigma", "match"),
    [
        ((1, 3, 3, 8, 8), False, r"\(B, 3, 4, H, W\), with a noise map, got \(1, 3, 3, 8, 8\)"),
        ((1, 3, 4, 8, 8), True, r"\(B, 3, 3, H, W\), without a noise map"),
        ((1, 4, 4, 8, 8), False, r"got \(1, 4, 4, 8, 8\); skipvit.clips cuts longer ones"),
        ((3, 4, 8, 8), False, r"got \(3, 4, 8, 8\)"),
        ((1, 3, 4, 0, 8), False, r"got \(1, 3, 4, 0, 8\)"),
    ],
)
def test_names_what_is_wrong_with_a_clip(shape: tuple[int, ...], sigma: bool, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        VideoDenoiser(**SMALL)(torch.zeros(shape), torch.ones(1) if sigma else None)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"frames": 0}, "frames 0"),
        ({"window": 0}, "window 0"),
        ({"depths": (1, 1)}, r"depths \(1, 1\)"),
        ({"dims": (8,), "depths": (1,), "num_heads": (0,)}, "the same two or more stages"),
        ({"depths": (1, 0, 1)}, "a channel and a block at least"),
        ({"num_heads": (0, 5, 4)}, "12 channels cannot be shared out to 5 heads"),
    ],
)
def test_refuses_sizes_that_do_not_fit(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        VideoDenoiser(**{**SMALL, **kwargs})
