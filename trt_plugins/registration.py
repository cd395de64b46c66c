"""Makes our ops known to TensorRT, whose ONNX parser then takes them as plugins. Importing this registers nothing."""

from collections.abc import Sequence
from typing import Any

from trt_plugins.flavors import Tensorrt
from trt_plugins.operators import ALL
from trt_plugins.plugin_op import NAMESPACE, VERSION, PluginOp
from trt_plugins.plugin_v3 import creators
from trt_plugins.quick_plugin import Code, define, quick_plugins_of

_kept: list[Any] = []  # TensorRT's registry holds its creators without owning them


class RegistrationError(Exception):
    """TensorRT refuses a plugin."""


def register(tensorrt: Tensorrt, ops: Sequence[PluginOp] = ALL, code: Code = "cubin") -> tuple[str, ...]:
    """Registers a plugin for each op, unless it is there already; to be called before a graph is parsed.

    Full TensorRT from 10.10 on gets plugins whose compiled kernels become part of the engine. TensorRT-RTX, and older
    TensorRT, get plugins that call Python when the engine runs.

    Args:
        code: what an engine holds of a kernel. ``cubin`` is machine code, for GPUs of the same major version as the one
            here; TensorRT's Python code takes it, its documentation speaks of PTX only. ``ptx`` is compiled by the
            driver, which must be as new as the compiler that made it; it runs on any GPU from Ampere on, and on older
            ones only if built there.

    Returns:
        The names of ``ops``, in order.

    Raises:
        RegistrationError: TensorRT refuses one.
    """
    registry = tensorrt.module.get_plugin_registry()
    there = {(c.name, c.plugin_version, c.plugin_namespace) for c in registry.all_creators}
    missing = [op for op in ops if (op.name, VERSION, NAMESPACE) not in there]
    trtp = quick_plugins_of(tensorrt.module)
    if trtp is not None:
        for op in missing:
            define(trtp, op, code)
        return tuple(op.name for op in ops)
    for creator in creators(tensorrt.module, missing):
        if not registry.register_creator(creator, NAMESPACE):
            raise RegistrationError(f"TensorRT {tensorrt.version} refuses the plugin {NAMESPACE}::{creator.name}")
        _kept.append(creator)
    return tuple(op.name for op in ops)
