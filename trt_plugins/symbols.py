"""Dims that are known only when an engine runs: arithmetic on them builds the expression that TensorRT evaluates then.

A record's functions (plugin_op) take such dims in place of ints. Dims that are known already stay ints.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Operation = Literal["SUM", "SUB", "PROD", "FLOOR_DIV"]  # the names in TensorRT's DimensionOperation
Combine = Callable[[Operation, Any, Any], Any]  # of two operands, each an int or an expression of TensorRT's


@dataclass(frozen=True, eq=False)
class Symbol:
    """An expression of TensorRT's with the arithmetic of an int: ``+``, ``-``, ``*``, ``//``, and no comparison.

    Attributes:
        expression: TensorRT's own object.
        combine: makes TensorRT's object of an operation.
    """

    expression: Any
    combine: Combine

    def __add__(self, other: "int | Symbol") -> "Symbol":
        return self._of("SUM", self, other)

    def __radd__(self, other: int) -> "Symbol":
        return self._of("SUM", other, self)

    def __sub__(self, other: "int | Symbol") -> "Symbol":
        return self._of("SUB", self, other)

    def __rsub__(self, other: int) -> "Symbol":
        return self._of("SUB", other, self)

    def __mul__(self, other: "int | Symbol") -> "Symbol":
        return self._of("PROD", self, other)

    def __rmul__(self, other: int) -> "Symbol":
        return self._of("PROD", other, self)

    def __floordiv__(self, other: "int | Symbol") -> "Symbol":
        return self._of("FLOOR_DIV", self, other)

    def __rfloordiv__(self, other: int) -> "Symbol":
        return self._of("FLOOR_DIV", other, self)

    def __eq__(self, other: object) -> bool:
        raise TypeError("a dim that is known only when the engine runs cannot be compared")

    def _of(self, operation: Operation, left: "int | Symbol", right: "int | Symbol") -> "Symbol":
        return Symbol(self.combine(operation, expression_of(left), expression_of(right)), self.combine)


def expression_of(dim: "int | Symbol") -> Any:
    """An int as it is, a symbol as TensorRT's own object."""
    return dim.expression if isinstance(dim, Symbol) else dim


def known(constants: dict[str, Any], op: str) -> dict[str, int]:
    """``constants`` if all are ints.

    Raises:
        ValueError: one depends on a dim that changes from run to run.
    """
    for name, value in constants.items():
        if isinstance(value, Symbol):
            raise ValueError(f"{op}'s kernel is compiled for one {name}, so that dim must be fixed in the graph")
    return constants
