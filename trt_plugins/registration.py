"""Makes our ops known to TensorRT, whose ONNX parser then takes them as plugins. Importing this registers nothing."""

from collections.abc import Sequence
from typing import Any

from trt_plugins.flavors import Tensorrt
from trt_plugins.operators import ALL
from trt_plugins.plugin_op import NAMESPACE, VERSION, PluginOp
from trt_plugins.plugin_v3 import creators

_kept: list[Any] = []  # TensorRT's registry holds its creators without owning them


class RegistrationError(Exception):
    """TensorRT refuses a plugin."""


def register(tensorrt: Tensorrt, ops: Sequence[PluginOp] = ALL) -> tuple[str, ...]:
    """Registers a plugin for each op, unless it is there already; to be called before a graph is parsed.

    Full TensorRT from 10.10 on gets plugins whose machine code becomes part of the engine. TensorRT-RTX, and older
    TensorRT, get plugins that call Python when the engine runs.

    Returns:
        The names of ``ops``, in order.

    Raises:
        RegistrationError: TensorRT refuses one.
    """
    registry = tensorrt.module.get_plugin_registry()
    there = {(c.name, c.plugin_version, c.plugin_namespace) for c in registry.all_creators}
    missing = [op for op in ops if (op.name, VERSION, NAMESPACE) not in there]
    for creator in creators(tensorrt.module, missing):
        if not registry.register_creator(creator, NAMESPACE):
            raise RegistrationError(f"TensorRT {tensorrt.version} refuses the plugin {NAMESPACE}::{creator.name}")
        _kept.append(creator)
    return tuple(op.name for op in ops)
