"""``skipvit::TokenDwConvGelu`` in ONNX; the op is skipvit.ops.token_dwconv_gelu."""

from typing import Any

import onnx
import torch

from export.ops.domain import PLUGIN_ATTRIBUTES, Ref, function, node_of, node_op

NAME = "TokenDwConvGelu"
TORCH_OP = torch.ops.skipvit.token_dwconv_gelu.default
_INPUTS = ["x", "weight", "bias"]
_INTS = ["channels"]
_node = node_op(NAME, _INPUTS, dict.fromkeys(_INTS, int) | dict.fromkeys(PLUGIN_ATTRIBUTES, str))


def record(x: Any, weight: Any, bias: Any) -> Any:
    """What the exporter writes in place of the torch op."""
    return _node(x, weight, bias, channels=int(weight.shape[0]), **PLUGIN_ATTRIBUTES)


def body(opset: int) -> onnx.FunctionProto:
    """The op over standard nodes, for any size of the grid; the layout changes that a plugin saves are visible here."""
    nodes = [
        node_of("Transpose", ["x"], ["map"], perm=[0, 3, 1, 2]),  # (B, H, W, C) -> (B, C, H, W)
        node_of("Conv", ["map", "weight", "bias"], ["conv"], group=Ref("channels"), auto_pad="SAME_UPPER"),
        *_gelu("conv", "act", opset),
        node_of("Transpose", ["act"], ["y"], perm=[0, 2, 3, 1]),  # (B, C, H, W) -> (B, H, W, C)
    ]
    return function(NAME, _INPUTS, _INTS, nodes, opset)


def _gelu(x: str, y: str, opset: int) -> list[onnx.NodeProto]:
    """Exact GELU: one node from opset 20 on, x/2 * (1 + erf(x/√2)) before."""
    if opset >= 20:
        return [node_of("Gelu", [x], [y])]
    # The constants take the dtype of x, so that one body serves every precision.
    constants = {"two": 2.0, "one": 1.0}
    casts = [
        n
        for name, value in constants.items()
        for n in (
            node_of("Constant", [], [f"{name}_f"], value_float=value),
            node_of("CastLike", [f"{name}_f", x], [name]),
        )
    ]
    return [
        *casts,
        node_of("Sqrt", ["two"], ["root"]),
        node_of("Div", [x, "root"], ["scaled"]),
        node_of("Erf", ["scaled"], ["erf"]),
        node_of("Add", ["erf", "one"], ["shifted"]),
        node_of("Div", [x, "two"], ["half"]),
        node_of("Mul", ["half", "shifted"], [y]),
    ]
