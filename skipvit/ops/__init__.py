"""Pure functions that a plugin may replace. One name each: reference, torch op, ONNX function, plugin, kernel, test.

B batch, n patch tokens, C channels, H x W the patch grid with n = H*W, r the kernel size.
"""

from skipvit.ops.eca_gate import eca_gate, eca_gate_reference
from skipvit.ops.token_dwconv_gelu import token_dwconv_gelu, token_dwconv_gelu_reference

__all__ = ["eca_gate", "eca_gate_reference", "token_dwconv_gelu", "token_dwconv_gelu_reference"]
