"""What our plugins use of the module ``tensorrt.plugin``, as strict about signatures as 11.4. No test of its own."""

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Function = Callable[..., Any]


class ShapeExpr:
    """A dim: known now, known when the engine runs, or a stand-in without a value ("fake")."""

    def __init__(self, value: int | None = None, constant: bool = True) -> None:
        self.value, self.is_constant, self.is_fake = value, constant, value is None

    def constant_value(self) -> int:
        assert self.is_constant
        assert self.value is not None
        return self.value

    # As in TensorRT, an int may be on the right only.
    def __add__(self, other: "int | ShapeExpr") -> "ShapeExpr":
        return self._of(other, lambda a, b: a + b)

    def __sub__(self, other: "int | ShapeExpr") -> "ShapeExpr":
        return self._of(other, lambda a, b: a - b)

    def __mul__(self, other: "int | ShapeExpr") -> "ShapeExpr":
        return self._of(other, lambda a, b: a * b)

    def __floordiv__(self, other: "int | ShapeExpr") -> "ShapeExpr":
        return self._of(other, lambda a, b: a // b)

    def _of(self, other: "int | ShapeExpr", function: Callable[[int, int], int]) -> "ShapeExpr":
        right = other if isinstance(other, ShapeExpr) else ShapeExpr(other)
        if self.value is None:
            return ShapeExpr()
        if right.value is None:  # TensorRT asks its builder for the operation, and a stand-in has no expression
            raise TypeError("operation(): incompatible function arguments")
        return ShapeExpr(function(self.value, right.value), self.is_constant and right.is_constant)


class SymInt32:
    def __init__(self, value: int | ShapeExpr) -> None:
        assert isinstance(value, int | ShapeExpr)
        self.value = value.value if isinstance(value, ShapeExpr) else value


class SymIntExprs(list[SymInt32]):
    @classmethod
    def from_tuple(cls, numbers: tuple[SymInt32, ...]) -> "SymIntExprs":
        assert all(isinstance(number, SymInt32) for number in numbers)
        return cls(numbers)


class KernelLaunchParams:
    def __init__(self, *numbers: int | ShapeExpr) -> None:
        assert len(numbers) <= 7  # grid, block, bytes of shared memory
        self.numbers = [SymInt32(number).value for number in numbers]


@dataclass
class TensorDesc:
    shape_expr: tuple[int | ShapeExpr, ...]
    dtype: Any


@dataclass
class AutoTuneCombination:
    io_types: str
    layouts: str
    tactics: list[int]


@dataclass
class Definition:
    inputs: list[str]
    attributes: list[str]
    describe: Function
    tune: Function | None = None
    compile: Function | None = None


@dataclass
class QuickPlugins:
    """The module; ``definitions`` holds what was registered."""

    definitions: dict[str, Definition] = field(default_factory=dict)
    ShapeExpr = ShapeExpr
    SymInt32 = SymInt32
    SymIntExprs = SymIntExprs
    KernelLaunchParams = KernelLaunchParams
    TensorDesc = TensorDesc
    AutoTuneCombination = AutoTuneCombination

    @staticmethod
    def from_shape_expr(shape: tuple[int | ShapeExpr, ...], dtype: Any) -> TensorDesc:
        assert all(isinstance(dim, int | ShapeExpr) for dim in shape)
        return TensorDesc(shape, dtype)

    def register(self, name: str) -> Function:
        def decorator(function: Function) -> Function:
            assert name not in self.definitions
            signature = inspect.signature(function)
            assert signature.return_annotation is TensorDesc
            kinds = {key: parameter.annotation for key, parameter in signature.parameters.items()}
            assert all(
                p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in signature.parameters.values()
            )
            inputs = [key for key, kind in kinds.items() if kind is TensorDesc]
            attributes = [key for key, kind in kinds.items() if kind in (int, float, str, bool, bytes)]
            assert list(kinds) == inputs + attributes
            assert inputs
            assert not {"outputs", "stream", "tactic"} & set(attributes)
            self.definitions[name] = Definition(inputs, attributes, function)
            return function

        return decorator

    def autotune(self, name: str) -> Function:
        def decorator(function: Function) -> Function:
            self._check(name, function, ["outputs"])
            assert inspect.signature(function).return_annotation == list[AutoTuneCombination]
            self.definitions[name].tune = function
            return function

        return decorator

    def aot_impl(self, name: str) -> Function:
        def decorator(function: Function) -> Function:
            self._check(name, function, ["outputs", "tactic"])
            kernel, code, launch, numbers = typing.get_args(inspect.signature(function).return_annotation)
            assert kernel in (str, bytes)
            assert code in (str, bytes)
            assert (launch, numbers) == (KernelLaunchParams, SymIntExprs)
            self.definitions[name].compile = function
            return function

        return decorator

    def _check(self, name: str, function: Function, more: list[str]) -> None:
        defined = self.definitions[name]
        kinds = {key: parameter.annotation for key, parameter in inspect.signature(function).parameters.items()}
        assert list(kinds) == defined.inputs + defined.attributes + more
        registered = {key: p.annotation for key, p in inspect.signature(defined.describe).parameters.items()}
        expected: dict[str, Any] = {"outputs": tuple[TensorDesc], "tactic": int}
        assert all(kind == (registered | expected)[key] for key, kind in kinds.items())


def creators_of(quick: QuickPlugins) -> list[Any]:
    """What TensorRT's registry shows of the definitions."""
    names = [name.split("::") for name in quick.definitions]
    return [types.SimpleNamespace(name=name, plugin_version="1", plugin_namespace=space) for space, name in names]
