"""Uformer's rewrites are exact: torch against torch, and the graph against ONNX Runtime, onnx's evaluator and torch."""

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from torch import nn

from export.denoising import denoiser_graph
from export.deploy_denoiser import AsItIs, DeployDenoiser
from export.deploy_uformer import DeployedUformer
from export.deploy_windows import Shifted
from skipvit.layers.window_attention import shift_mask, window_partition, window_reverse
from skipvit.models import Uformer

SMALL: dict[str, Any] = {
    "embed_dim": 8, "depths": (2, 2, 2), "num_heads": (1, 8, 2), "window": 4, "drop_path_rate": 0.0,
}  # fmt: skip
MULTIPLE = 8


def randomised(model: nn.Module) -> nn.Module:
    """Weights far from their start, where the output is zero and biases are not seen."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def pictures(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def restored_by(model: nn.Module, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """By the model itself, in float64."""
    with torch.inference_mode():
        x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
        restored = model.double()(x) * 255
    model.float()
    return restored.permute(0, 2, 3, 1).numpy()


def close(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], relative: float = 2e-6) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=relative * np.abs(expected).max())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"skip": "all"},
        {"skip": "odd", "phi_expansion": 1.0, "phi_proj": False, "phi_kernel_size": 3},
        {"modulator": False, "num_heads": (2, 1, 4)},
        {"depths": (1, 2, 3, 2, 1), "num_heads": (1, 2, 2, 8, 1), "skip": "0.1"},
    ],
    ids=str,
)
def test_rewrites_are_exact(options: dict[str, Any]) -> None:
    model = randomised(Uformer(**{**SMALL, **options}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = pictures(2, 32, 48)
    deployed = DeployDenoiser(model)
    denoised, restored = deployed(torch.from_numpy(images))
    assert isinstance(deployed.restore, DeployedUformer)
    close(restored.detach().numpy(), restored_by(model, images))
    np.testing.assert_array_equal(
        denoised.numpy(), np.clip(np.rint(restored.detach().numpy()), 0, 255).astype(np.uint8)
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), "the model was changed"


def test_half_precision_adds_the_picture_in_float32() -> None:
    model = randomised(Uformer(**SMALL))
    for parameter in model.get_submodule("output_proj").parameters():
        nn.init.zeros_(parameter)
    images = pictures(1, 16, 16)
    denoised, restored = DeployDenoiser(model, torch.float16)(torch.from_numpy(images))
    assert restored.dtype == torch.float32
    np.testing.assert_array_equal(restored.detach().numpy(), images)
    np.testing.assert_array_equal(denoised.numpy(), images)


def test_half_precision_is_close() -> None:
    model = randomised(Uformer(**SMALL, skip="odd"))
    images = pictures(1, 16, 24)
    restored = DeployDenoiser(model, torch.float16)(torch.from_numpy(images))[1]
    close(restored.detach().numpy(), restored_by(model, images), relative=1e-2)


class Another(Uformer):
    """A class that may compute something else."""


def test_what_is_no_plain_uformer_deploys_as_it_is() -> None:
    model = randomised(Another(**SMALL, skip="all"))
    deployed = DeployDenoiser(model)
    assert isinstance(deployed.restore, AsItIs)
    images = pictures(1, 16, 16)
    close(deployed(torch.from_numpy(images))[1].detach().numpy(), restored_by(model, images))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), window=st.sampled_from([2, 4, 8]), data=st.data())
def test_shifted_windows_are_a_roll_and_a_cut(rows: int, columns: int, window: int, data: st.DataObject) -> None:
    shift = data.draw(st.integers(1, window - 1))
    height, width = rows * window, columns * window
    x = torch.randn(2, height, width, 3)
    shifted = Shifted.of(height, width, window, shift, like=x)
    windows = x.flatten(1, 2).index_select(1, shifted.order).reshape(-1, window**2, 3)
    rolled = x.roll((-shift, -shift), (1, 2))
    assert torch.equal(windows, window_partition(rolled, window))
    back = windows.reshape(2, -1, 3).index_select(1, shifted.back).reshape(x.shape)
    assert torch.equal(back, x)
    assert torch.equal(back, window_reverse(windows, window, 2, height, width).roll((shift, shift), (1, 2)))
    assert torch.equal(shifted.mask, shift_mask(height, width, window, shift, x))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return randomised(Uformer(**{**SMALL, "depths": (2, 1, 2)}, skip="odd"))


@pytest.fixture(scope="module")
def graph(model: nn.Module) -> onnx.ModelProto:
    return denoiser_graph(DeployDenoiser(model), MULTIPLE, 20)


@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 3), rows=st.integers(1, 6), columns=st.integers(1, 6), seed=st.integers(0, 9))
def test_the_graph_takes_any_multiple(
    model: nn.Module, graph: onnx.ModelProto, batch: int, rows: int, columns: int, seed: int
) -> None:
    images = pictures(batch, MULTIPLE * rows, MULTIPLE * columns, seed)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    denoised, restored = session.run(["denoised", "restored"], {"images": images})
    close(restored, restored_by(model, images), relative=1e-5)
    np.testing.assert_array_equal(denoised, np.clip(np.rint(restored), 0, 255).astype(np.uint8))


def test_another_engine_gives_the_same(model: nn.Module, graph: onnx.ModelProto) -> None:
    """onnx's own evaluator, which shares no kernel with ONNX Runtime."""
    images = pictures(1, 8, 16)
    restored = ReferenceEvaluator(graph).run(["restored"], {"images": images})[0]
    close(restored, restored_by(model, images), relative=1e-5)


def test_the_graph_has_what_the_rewrites_promise(graph: onnx.ModelProto) -> None:
    count = Counter(node.op_type for node in graph.graph.node)
    assert count["Pad"] == count["ConvTranspose"] == count["Split"] == 0
    # 4 attentions, of 1 and 1 head, 8 heads together and 2 apart: q, k, v of each group, a projection; Φ's; the way up
    groups = 1 + 1 + 1 + 2
    assert count["Gemm"] == 3 * groups + 4 + 1 + 1
    assert count["MatMul"] == 2 * groups
    names = [v.name for v in (*graph.graph.input, *graph.graph.output)]
    assert names == ["images", "denoised", "restored"]
