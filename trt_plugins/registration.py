"""Makes our ops known to TensorRT, whose ONNX parser then takes them as plugins. Importing this registers nothing."""

from collections.abc import Sequence

from trt_plugins.flavors import Tensorrt
from trt_plugins.operators import ALL
from trt_plugins.plugin_op import PluginOp


def register(tensorrt: Tensorrt, ops: Sequence[PluginOp] = ALL) -> tuple[str, ...]:
    """Registers a plugin for each op, unless it is there already; to be called before a graph is parsed.

    Full TensorRT from 10.10 on gets plugins whose machine code becomes part of the engine. TensorRT-RTX, and older
    TensorRT, get plugins that call Python when the engine runs.

    Returns:
        The names of ``ops``, in order.
    """
    raise NotImplementedError
