"""``skipvit::TokenPyramid`` in ONNX; the op is skipvit.ops.token_pyramid."""

from typing import Any

import onnx
import torch

from export.ops.domain import PLUGIN_ATTRIBUTES, Ref, function, node_of, node_op

NAME = "TokenPyramid"
TORCH_OP = torch.ops.skipvit.token_pyramid.default
_INPUTS = ["x", "matrix"]
_INTS = ["num_prefix"]
_node = node_op(NAME, _INPUTS, dict.fromkeys(_INTS, int) | dict.fromkeys(PLUGIN_ATTRIBUTES, str))


def record(x: Any, matrix: Any) -> Any:
    """What the exporter writes in place of the torch op."""
    return _node(x, matrix, num_prefix=int(x.shape[1]) - int(matrix.shape[-1]), **PLUGIN_ATTRIBUTES)


def body(opset: int) -> onnx.FunctionProto:
    """The op over standard nodes. MatMul broadcasts (m, n) x (B, n, C), so one body serves both ranks of the matrix."""
    nodes = [
        node_of("Constant", [], ["prefix"], value_int=Ref("num_prefix")),
        node_of("Constant", [], ["axis"], value_ints=[0]),
        node_of("Unsqueeze", ["prefix", "axis"], ["p"]),
        node_of("Constant", [], ["tokens"], value_ints=[1]),
        node_of("Constant", [], ["zero"], value_ints=[0]),
        node_of("Constant", [], ["end"], value_ints=[2**31 - 1]),
        node_of("Slice", ["x", "zero", "p", "tokens"], ["kept"]),  # (B, p + n, C) -> (B, p, C)
        node_of("Slice", ["x", "p", "end", "tokens"], ["patches"]),  # (B, p + n, C) -> (B, n, C)
        node_of("MatMul", ["matrix", "patches"], ["fewer"]),  # -> (B, m, C)
        node_of("Concat", ["kept", "fewer"], ["y"], axis=1),  # -> (B, p + m, C)
    ]
    return function(NAME, _INPUTS, _INTS, nodes, opset)
