"""skipvit's ops in ONNX: node, attributes, and a FunctionProto body that any engine can run."""

import skipvit.ops  # noqa: F401 - registers the torch ops, which the modules below look up
from export.ops import eca_gate, reused_attention, static_attention, token_dwconv_gelu, token_pyramid
from export.ops.domain import NodeOp

ALL: tuple[NodeOp, ...] = (token_dwconv_gelu, eca_gate, static_attention, token_pyramid, reused_attention)

__all__ = ["ALL", "eca_gate", "reused_attention", "static_attention", "token_dwconv_gelu", "token_pyramid"]
