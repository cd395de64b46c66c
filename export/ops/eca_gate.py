"""``skipvit::EcaGate`` in ONNX; the op is skipvit.ops.eca_gate."""

from typing import Any

import onnx
import torch

from export.ops.domain import PLUGIN_ATTRIBUTES, function, node_of, node_op

NAME = "EcaGate"
TORCH_OP = torch.ops.skipvit.eca_gate.default
_INPUTS = ["x", "weight"]
_node = node_op(NAME, _INPUTS, dict.fromkeys(PLUGIN_ATTRIBUTES, str))


def record(x: Any, weight: Any) -> Any:
    """What the exporter writes in place of the torch op."""
    return _node(x, weight, **PLUGIN_ATTRIBUTES)


def body(opset: int) -> onnx.FunctionProto:
    """The op over standard nodes."""
    nodes = [
        node_of("Constant", [], ["tokens"], value_ints=[1]),
        node_of("ReduceMean", ["x", "tokens"], ["pooled"], keepdims=1),  # (B, n, C) -> (B, 1, C)
        node_of("Conv", ["pooled", "weight"], ["conv"], auto_pad="SAME_UPPER"),
        node_of("Sigmoid", ["conv"], ["y"]),
    ]
    return function(NAME, _INPUTS, [], nodes, opset)
