"""``skipvit::ReusedAttention`` in ONNX; the op is skipvit.ops.reused_attention."""

from typing import Any

import onnx
import torch

from export.ops.domain import PLUGIN_ATTRIBUTES, Ref, function, node_of, node_op

NAME = "ReusedAttention"
TORCH_OP = torch.ops.skipvit.reused_attention.default
_INPUTS = ["attention", "v"]
_INTS = ["num_heads"]
_node = node_op(NAME, _INPUTS, dict.fromkeys(_INTS, int) | dict.fromkeys(PLUGIN_ATTRIBUTES, str))


def record(attention: Any, v: Any) -> Any:
    """What the exporter writes in place of the torch op."""
    return _node(attention, v, num_heads=int(attention.shape[1]), **PLUGIN_ATTRIBUTES)


def body(opset: int) -> onnx.FunctionProto:
    """The op over standard nodes; its two transposes move heads to where MatMul wants them, and a plugin needs none."""
    nodes = [
        node_of("Constant", [], ["heads"], value_int=Ref("num_heads")),
        node_of("Constant", [], ["axis"], value_ints=[0]),
        node_of("Constant", [], ["keep_two"], value_ints=[0, 0]),
        node_of("Constant", [], ["rest"], value_ints=[-1]),
        node_of("Unsqueeze", ["heads", "axis"], ["heads_1"]),
        node_of("Concat", ["keep_two", "heads_1", "rest"], ["split_shape"], axis=0),
        node_of("Concat", ["keep_two", "rest"], ["join_shape"], axis=0),
        node_of("Reshape", ["v", "split_shape"], ["split"]),  # (B, N, h*d) -> (B, N, h, d)
        node_of("Transpose", ["split"], ["values"], perm=[0, 2, 1, 3]),  # -> (B, h, N, d)
        node_of("MatMul", ["attention", "values"], ["rows"]),  # (B, h, N, N) x (B, h, N, d) -> (B, h, N, d)
        node_of("Transpose", ["rows"], ["rows_t"], perm=[0, 2, 1, 3]),  # -> (B, N, h, d)
        node_of("Reshape", ["rows_t", "join_shape"], ["y"]),  # -> (B, N, h*d)
    ]
    return function(NAME, _INPUTS, _INTS, nodes, opset)
