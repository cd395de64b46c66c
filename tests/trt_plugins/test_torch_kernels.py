"""Torch's ops answered by our kernels, on the host."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipvit.layers.phi import Phi
from skipvit.ops import eca_gate
from tests.trt_plugins.host_kernels import error_over_scale
from trt_plugins import torch_kernels
from trt_plugins.operators import ALL
from trt_plugins.operators.eca_gate import OP
from trt_plugins.torch_kernels import TORCH_OPS, apply, apply_into, kernels_in_use


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels in the order of their launches."""
    names: list[str] = []
    run: Callable[..., Any] = torch_kernels._on_the_host

    def noting(op: Any, *rest: Any) -> Any:
        names.append(op.name)
        return run(op, *rest)

    monkeypatch.setattr(torch_kernels, "_on_the_host", noting)
    return names


def tokens(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(dtype)


def test_every_op_has_a_name_in_torch() -> None:
    assert {op.name for op in ALL} <= set(TORCH_OPS)


def test_kernels_answer_inside_the_context_alone(launched: list[str]) -> None:
    x, weight = tokens(2, 5, 8), tokens(1, 1, 3)
    before = eca_gate(x, weight)
    for _ in range(2):
        with kernels_in_use("cpu"):
            inside = eca_gate(x, weight)
    assert launched == ["EcaGate", "EcaGate"]
    assert torch.equal(eca_gate(x, weight), before)
    assert error_over_scale(inside, before.double()) < 1e-6
    assert launched == ["EcaGate", "EcaGate"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_strided_and_misaligned_tensors_are_read_right(dtype: torch.dtype) -> None:
    weight = tokens(1, 1, 3, dtype=dtype)
    strided = tokens(2, 8, 5, dtype=dtype).transpose(1, 2)
    misaligned = tokens(81, dtype=dtype)[1:].view(2, 5, 8)
    for x in (strided, misaligned):
        assert torch.equal(apply(OP, [x, weight]), apply(OP, [x.clone(memory_format=torch.contiguous_format), weight]))
        with pytest.raises(ValueError, match="contiguous tensors that start at a multiple of 16 bytes"):
            apply_into(OP, [x, weight], torch.empty(2, 1, 8, dtype=dtype))


def test_tensors_that_do_not_agree_are_refused() -> None:
    x, weight = tokens(2, 5, 8), tokens(1, 1, 3)
    with pytest.raises(ValueError, match=r"one dtype on one device; got torch\.float32 on cpu, torch\.float16"):
        apply(OP, [x, weight.half()])
    with pytest.raises(ValueError, match=r"got torch\.float64"):
        apply(OP, [x.double(), weight.double()])
    with pytest.raises(ValueError, match=r"writes \(2, 1, 8\), the output given has \(2, 8\)"):
        apply_into(OP, [x, weight], torch.empty(2, 8))


def test_a_compiled_model_launches_kernels(launched: list[str]) -> None:
    """With the host's kernels and without code generation: the same dispatch as on a GPU."""
    torch.manual_seed(0)
    phi: nn.Module = Phi(8, kernel_size=3).eval()
    z = tokens(2, 4, 4, 8)
    with torch.inference_mode():
        reference = phi(z)
        with kernels_in_use("cpu"):
            compiled = torch.compile(phi, backend="aot_eager", fullgraph=True)
            assert (compiled(z) - reference).abs().max() < 1e-5
    assert "EcaGate" in launched
    assert set(launched) <= {op.name for op in ALL}
