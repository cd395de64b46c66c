"""Pure functions that a plugin may replace. One name each: reference, torch op, ONNX function, plugin, kernel, test.

B batch, N all tokens, n patch tokens, p prefix tokens (N = p + n), C channels, h heads of d channels, H x W the patch
grid with n = H*W, r the kernel size, m the patch tokens a pyramid leaves.
"""

from skipvit.ops.eca_gate import eca_gate, eca_gate_reference
from skipvit.ops.reused_attention import reused_attention, reused_attention_reference
from skipvit.ops.static_attention import static_attention, static_attention_reference
from skipvit.ops.token_dwconv_gelu import token_dwconv_gelu, token_dwconv_gelu_reference
from skipvit.ops.token_pyramid import token_pyramid, token_pyramid_reference

__all__ = [
    "eca_gate",
    "eca_gate_reference",
    "reused_attention",
    "reused_attention_reference",
    "static_attention",
    "static_attention_reference",
    "token_dwconv_gelu",
    "token_dwconv_gelu_reference",
    "token_pyramid",
    "token_pyramid_reference",
]
