"""Kernels on the host, in terms of torch tensors, for tests that compare them with the ops' references."""

import torch
from torch import Tensor

from trt_plugins import on_host
from trt_plugins.plugin_op import Attributes, PluginOp, Scalar

DTYPES: dict[Scalar, torch.dtype] = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# Half a unit in the last place of a result around 1, and what float32 sums add.
ROUNDING: dict[Scalar, float] = {"f32": 2e-6, "f16": 2.0**-11 + 2e-6, "bf16": 2.0**-8 + 2e-6}


def on_the_host(op: PluginOp, scalar: Scalar, tensors: list[Tensor], attributes: Attributes | None = None) -> Tensor:
    """The kernel's output for ``tensors``, which have the dtype of ``scalar``."""
    arrays = [(t.view(torch.uint16) if scalar == "bf16" else t).numpy() for t in tensors]
    output = torch.from_numpy(on_host.run(op, scalar, arrays, attributes))
    return output.view(torch.bfloat16) if scalar == "bf16" else output


def error_over_scale(found: Tensor, reference: Tensor) -> float:
    """Largest difference over the larger of 1 and the reference's largest value; both are compared in float64."""
    assert found.shape == reference.shape
    return float((found.double() - reference).abs().max() / max(1.0, float(reference.abs().max())))
