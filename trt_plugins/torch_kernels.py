"""Our kernels as what torch's ops ``skipvit::*`` do, so that PyTorch can time and check them. Nothing else needs torch.

Models call the ops as they always do; inside `kernels_in_use` a launch of our kernel answers them, under
torch.compile and in CUDA graphs too. On a CPU the kernel's host build answers, far too slow for more than tests.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipvit import ops
from trt_plugins import on_device, on_host
from trt_plugins.operators import ALL
from trt_plugins.plugin_op import Attributes, PluginOp, Scalar, Shapes

DTYPES: dict[Scalar, torch.dtype] = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_SCALARS = {dtype: scalar for scalar, dtype in DTYPES.items()}
_ALIGNMENT = 16  # bytes; kernels load that many at a time
_SWITCHED_OFF = ExitStack()  # never left: between uses kernels lie registered and off


@dataclass(frozen=True)
class TorchOp:
    """An op of torch: ``call`` dispatches, ``reference`` is plain PyTorch, ``attributes`` come of the shapes."""

    call: Any
    reference: Callable[..., Tensor]
    attributes: Callable[[Shapes], dict[str, int]]


TORCH_OPS: dict[str, TorchOp] = {
    "TokenDwConvGelu": TorchOp(
        ops.token_dwconv_gelu, ops.token_dwconv_gelu_reference, lambda shapes: {"channels": shapes[0][3]}
    ),
    "EcaGate": TorchOp(ops.eca_gate, ops.eca_gate_reference, lambda shapes: {}),
    "StaticAttention": TorchOp(
        ops.static_attention, ops.static_attention_reference, lambda shapes: {"num_heads": shapes[1][0]}
    ),
    "TokenPyramid": TorchOp(
        ops.token_pyramid, ops.token_pyramid_reference, lambda shapes: {"num_prefix": shapes[0][1] - shapes[1][-1]}
    ),
    "ReusedAttention": TorchOp(
        ops.reused_attention, ops.reused_attention_reference, lambda shapes: {"num_heads": shapes[0][1]}
    ),
}


@contextmanager
def kernels_in_use(device: str = "cuda") -> Iterator[None]:
    """Within it, ops on tensors of this kind of device ("cuda" or "cpu") are our kernels; elsewhere, as ever.

    Code that torch.compile made asks anew at every call; a CUDA graph captured inside keeps the kernels.
    """
    _register(device)
    with ExitStack() as stack:
        for op in ALL:
            stack.enter_context(TORCH_OPS[op.name].call.set_kernel_enabled(device, enabled=True))
        yield


def apply(op: PluginOp, inputs: Sequence[Tensor]) -> Tensor:
    """The output of ``op``'s kernel for tensors of one dtype on one device; strided ones are copied first.

    Raises:
        ValueError, DeviceError, CompileError, HostError: see `apply_into` and where these come from.
    """
    shapes = [tuple(tensor.shape) for tensor in inputs]
    shape = op.output_shape(shapes, TORCH_OPS[op.name].attributes(shapes))
    output = inputs[0].new_empty(shape)
    apply_into(op, [_packed(tensor) for tensor in inputs], output)
    return output


def apply_into(op: PluginOp, inputs: Sequence[Tensor], output: Tensor) -> None:
    """Launches ``op``'s kernel on the current stream, into ``output``.

    Raises:
        ValueError: dtypes, devices or the output's shape do not agree, or a tensor is strided or not aligned.
    """
    shapes = [tuple(tensor.shape) for tensor in inputs]
    attributes = TORCH_OPS[op.name].attributes(shapes)
    scalar = _checked(op, inputs, output, op.output_shape(shapes, attributes))
    if output.device.type == "cpu":
        output.copy_(_on_the_host(op, scalar, inputs, attributes))
        return
    stream = torch.cuda.current_stream(output.device).cuda_stream
    with torch.cuda.device(output.device):
        on_device.launch(op, scalar, shapes, attributes, [t.data_ptr() for t in (*inputs, output)], stream)


def _checked(op: PluginOp, inputs: Sequence[Tensor], output: Tensor, shape: tuple[int, ...]) -> Scalar:
    tensors = [*inputs, output]
    if output.dtype not in _SCALARS or any(t.dtype != output.dtype or t.device != output.device for t in tensors):
        given = ", ".join(f"{t.dtype} on {t.device}" for t in tensors)
        raise ValueError(f"{op.name} needs float32, float16 or bfloat16, one dtype on one device; got {given}")
    if tuple(output.shape) != shape:
        raise ValueError(f"{op.name} writes {shape}, the output given has {tuple(output.shape)}")
    for tensor in tensors:
        if not _is_packed(tensor):
            raise ValueError(f"{op.name} needs contiguous tensors that start at a multiple of {_ALIGNMENT} bytes")
    return _SCALARS[output.dtype]


def _is_packed(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.data_ptr() % _ALIGNMENT == 0


def _packed(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that a kernel can read: torch allocates at multiples of far more than 16 bytes."""
    return tensor if _is_packed(tensor) else tensor.clone(memory_format=torch.contiguous_format)


def _on_the_host(op: PluginOp, scalar: Scalar, inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    arrays = [(t.detach().view(torch.uint16) if scalar == "bf16" else t.detach()).numpy() for t in inputs]
    output = torch.from_numpy(on_host.run(op, scalar, arrays, attributes))
    return output.view(torch.bfloat16) if scalar == "bf16" else output


@functools.cache
def _register(device: str) -> None:
    """Gives torch our kernels for a kind of device, switched off."""
    for op in ALL:
        call = TORCH_OPS[op.name].call
        call.register_kernel(device, _implementation(op))
        _SWITCHED_OFF.enter_context(call.set_kernel_enabled(device, enabled=False))


def _implementation(op: PluginOp) -> Callable[..., Tensor]:
    def run(*inputs: Tensor) -> Tensor:
        return apply(op, inputs)

    return run
