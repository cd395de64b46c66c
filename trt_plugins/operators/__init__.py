"""Our ops, one record each: the list from which plugins are registered, kernels compiled and tests drawn."""

from trt_plugins.operators import eca_gate
from trt_plugins.plugin_op import PluginOp

ALL: tuple[PluginOp, ...] = (eca_gate.OP,)
