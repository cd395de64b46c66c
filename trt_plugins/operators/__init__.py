"""Our ops, one record each: the list from which plugins are registered, kernels compiled and tests drawn."""

from trt_plugins.operators import eca_gate, reused_attention, static_attention, token_dwconv_gelu, token_pyramid
from trt_plugins.plugin_op import PluginOp

ALL: tuple[PluginOp, ...] = (
    token_dwconv_gelu.OP,
    eca_gate.OP,
    static_attention.OP,
    token_pyramid.OP,
    reused_attention.OP,
)
