"""skipvit's ops in ONNX: node, attributes, and a FunctionProto body that any engine can run."""

from export.ops import eca_gate, token_dwconv_gelu

__all__ = ["eca_gate", "token_dwconv_gelu"]
