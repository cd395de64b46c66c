"""Step 2 of trt_plugins/README.md: ``TemporalShift`` in ONNX."""

from typing import Any

import onnx
import torch

from export.ops.domain import PLUGIN_ATTRIBUTES, Ref, function, node_of, node_op

NAME = "TemporalShift"
TORCH_OP = torch.ops.sixth.temporal_shift.default
_INPUTS, _INTS = ["x"], ["fold"]
_node = node_op(NAME, _INPUTS, dict.fromkeys(_INTS, int) | dict.fromkeys(PLUGIN_ATTRIBUTES, str))


def record(x: Any, fold: int) -> Any:
    """What the exporter writes in place of the torch op."""
    return _node(x, fold=fold, **PLUGIN_ATTRIBUTES)


def body(opset: int) -> onnx.FunctionProto:
    """The op over standard nodes. A pad of one frame on one side and of minus one on the other is a shift."""
    nodes = [
        node_of("Constant", [], ["number"], value_int=Ref("fold")),
        node_of("Constant", [], ["zero"], value_ints=[0]),
        node_of("Constant", [], ["end"], value_ints=[2**31 - 1]),
        node_of("Constant", [], ["frames"], value_ints=[1]),
        node_of("Constant", [], ["channels"], value_ints=[2]),
        node_of("Unsqueeze", ["number", "zero"], ["fold"]),
        node_of("Add", ["fold", "fold"], ["folds"]),
        node_of("Slice", ["x", "zero", "fold", "channels"], ["later"]),  # (B, T, C) -> (B, T, f)
        node_of("Slice", ["x", "fold", "folds", "channels"], ["earlier"]),  # (B, T, C) -> (B, T, f)
        node_of("Slice", ["x", "folds", "end", "channels"], ["same"]),  # (B, T, C) -> (B, T, C - 2 f)
        node_of("Constant", [], ["back"], value_ints=[-1, 1]),
        node_of("Constant", [], ["forth"], value_ints=[1, -1]),
        node_of("Constant", [], ["nothing"], value_float=0.0),
        node_of("CastLike", ["nothing", "x"], ["silence"]),
        node_of("Pad", ["later", "back", "silence", "frames"], ["from_next"]),
        node_of("Pad", ["earlier", "forth", "silence", "frames"], ["from_last"]),
        node_of("Concat", ["from_next", "from_last", "same"], ["y"], axis=2),  # -> (B, T, C)
    ]
    return function(NAME, _INPUTS, _INTS, nodes, opset)
