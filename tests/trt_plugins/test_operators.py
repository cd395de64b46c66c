"""Shapes that do not fit each other: a kernel would read past the end of the smaller input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trt_plugins.test_compilation import USUAL
from trt_plugins.operators import ALL, reused_attention, static_attention, token_pyramid
from trt_plugins.plugin_op import Attributes, PluginOp, Shapes
from trt_plugins.symbols import Symbol

STATIC, PYRAMID, REUSED = static_attention.OP, token_pyramid.OP, reused_attention.OP


@pytest.mark.parametrize(
    ("op", "shapes", "attributes", "sentence"),
    [
        (STATIC, [(2, 9, 8), (2, 9, 8)], {"num_heads": 2}, "tokens and its matrix's columns must agree; they are 9, 8"),
        (STATIC, [(2, 9, 8), (3, 9, 9)], {"num_heads": 2}, "num_heads and its matrix's heads must agree"),
        (STATIC, [(2, 9, 8), (3, 9, 9)], {"num_heads": 3}, "8 channels for 3 heads; the heads must divide them"),
        (STATIC, [(2, 9, 8), (0, 9, 9)], {"num_heads": 0}, "8 channels for 0 heads"),
        (PYRAMID, [(2, 9, 8), (4, 9)], {"num_prefix": 1}, "tokens and its prefix plus its matrix's columns must agree"),
        (PYRAMID, [(2, 9, 8), (4, 10)], {"num_prefix": -1}, "num_prefix must be 0 or more; it is -1"),
        (PYRAMID, [(2, 9, 8), (3, 4, 8)], {"num_prefix": 1}, "images and its matrices must agree; they are 2, 3"),
        (REUSED, [(2, 2, 9, 9), (2, 8, 8)], {"num_heads": 2}, "tokens and its attention's rows and columns must agree"),
        (REUSED, [(2, 2, 8, 9), (2, 8, 8)], {"num_heads": 2}, "they are 8, 8, 9"),
        (REUSED, [(1, 2, 9, 9), (2, 9, 8)], {"num_heads": 2}, "images and its attention's must agree"),
        (REUSED, [(2, 3, 9, 9), (2, 9, 8)], {"num_heads": 2}, "num_heads and its attention's heads must agree"),
        (REUSED, [(2, 3, 9, 9), (2, 9, 8)], {"num_heads": 3}, "the heads must divide them"),
    ],
)
def test_they_are_refused(op: PluginOp, shapes: Shapes, attributes: Attributes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        op.output_shape(shapes, attributes)


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
@given(data=st.data())
def test_what_is_known_later_is_not_compared(op: PluginOp, data: st.DataObject) -> None:
    shapes, attributes = USUAL[op.name]
    fixed = {"TokenDwConvGelu": 1, "EcaGate": 1}.get(op.name)  # a weight, whose dims the graph has
    later = [
        shape
        if index == fixed
        else tuple(Symbol("n", lambda operation, left, right: "") if data.draw(st.booleans()) else dim for dim in shape)
        for index, shape in enumerate(shapes)
    ]
    assert len(op.output_shape(later, attributes)) == len(op.output_shape(shapes, attributes))
