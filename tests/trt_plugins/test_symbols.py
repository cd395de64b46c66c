"""Dims that are known only when an engine runs: the arithmetic of records on them, against that on ints."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trt_plugins.test_compilation import USUAL
from trt_plugins.operators import ALL
from trt_plugins.plugin_op import PluginOp, cdiv
from trt_plugins.symbols import Operation, Symbol, known

ARITHMETIC: dict[Operation, Callable[[int, int], int]] = {
    "SUM": lambda a, b: a + b,
    "SUB": lambda a, b: a - b,
    "PROD": lambda a, b: a * b,
    "FLOOR_DIV": lambda a, b: a // b,
}


def combine(operation: Operation, left: Any, right: Any) -> tuple[Operation, Any, Any]:
    return operation, left, right


def value(expression: Any, dims: dict[str, int]) -> int:
    """What an expression, as a symbol holds it, comes to."""
    if isinstance(expression, str):
        return dims[expression]
    if isinstance(expression, int):
        return expression
    operation, left, right = expression
    return ARITHMETIC[operation](value(left, dims), value(right, dims))


@given(a=st.integers(0, 1000), b=st.integers(1, 1000), n=st.integers(1, 50))
def test_arithmetic_is_that_of_ints(a: int, b: int, n: int) -> None:
    def all_of(x: Any, y: Any) -> list[Any]:
        return [x + y, x - y, x * y, x // y, x + n, n + x, x - n, n - x, x * n, n * x, x // n, n // y, cdiv(x, n)]

    dims = {"a": a, "b": b}
    symbols = all_of(Symbol("a", combine), Symbol("b", combine))
    assert [value(symbol.expression, dims) for symbol in symbols] == all_of(a, b)


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_a_record_gives_the_same_for_a_batch_known_later(op: PluginOp) -> None:
    shapes, attributes = USUAL[op.name]
    batch = shapes[0][0]
    later: list[tuple[Any, ...]] = [
        (Symbol("batch", combine), *shape[1:]) if i == 0 or shape[0] == batch else shape
        for i, shape in enumerate(shapes)
    ]
    expected, symbolic = op.launch(shapes, attributes), op.launch(later, attributes)
    pairs = [
        *zip(op.output_shape(later, attributes), op.output_shape(shapes, attributes), strict=True),
        *zip(symbolic.grid, expected.grid, strict=True),
        *zip(symbolic.numbers, expected.numbers, strict=True),
    ]
    for later_dim, dim in pairs:
        assert value(getattr(later_dim, "expression", later_dim), {"batch": batch}) == dim
    assert symbolic.block == expected.block
    assert known(op.constants(later, attributes), op.name) == op.constants(shapes, attributes)


def test_a_dim_known_later_is_neither_compared_nor_compiled_in() -> None:
    batch = Symbol("batch", combine)
    with pytest.raises(TypeError, match="cannot be compared"):
        assert batch == 1
    with pytest.raises(TypeError):
        assert batch < 1  # type: ignore[operator]
    with pytest.raises(ValueError, match="compiled for one BATCH"):
        known({"BATCH": batch}, "EcaGate")
