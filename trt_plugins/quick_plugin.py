"""Our ops as "quick" plugins of full TensorRT 10.10 and later, compiled ahead of time.

An engine built with them holds the kernels' machine code and how they are launched: it runs in C++, trtexec or Triton
without Python and without this package. TensorRT reads the functions' signatures, which are made from the records.
"""

import functools
import importlib
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from trt_plugins import cubins
from trt_plugins.plugin_op import NAMESPACE, Attributes, PluginOp, Scalar
from trt_plugins.symbols import Operation, Symbol, expression_of, known

Code = Literal["cubin", "ptx"]
_TACTIC = 1  # there is one way to compute an op, and custom tactics count from 1
_OLDEST = 80  # Ampere: engines for many GPUs run from there on, and kernels use nothing newer
_OPERATORS: dict[Operation, Callable[[Any, Any], Any]] = {
    "SUM": operator.add,
    "SUB": operator.sub,
    "PROD": operator.mul,
    "FLOOR_DIV": operator.floordiv,
}


def quick_plugins_of(trt: Any) -> Any | None:
    """The module ``tensorrt.plugin``, or None: TensorRT-RTX has none, and before 10.10 it compiles nothing."""
    ahead_of_time = hasattr(trt, "QuickPluginCreationRequest")  # by which tensorrt.plugin decides it too
    return importlib.import_module(f"{trt.__name__}.plugin") if ahead_of_time else None


def define(trtp: Any, op: PluginOp, code: Code) -> None:
    """Registers one op with TensorRT.

    Args:
        trtp: the module ``tensorrt.plugin``.
        code: what engines hold, for the GPU that is current when they are built; see `registration.register`.
    """
    name = f"{NAMESPACE}::{op.name}"
    tensors, attributes = dict.fromkeys(op.inputs, trtp.TensorDesc), dict.fromkeys(op.attributes, int)
    outputs, tactic = {"outputs": tuple[trtp.TensorDesc]}, {"tactic": int}
    compiled = tuple[str, bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]
    describe = functools.partial(_describe, trtp, op)
    trtp.register(name)(_signed(describe, tensors | attributes, trtp.TensorDesc))
    tune = functools.partial(_tune, trtp, op)
    trtp.autotune(name)(_signed(tune, tensors | attributes | outputs, list[trtp.AutoTuneCombination]))
    compile_ = functools.partial(_compile, trtp, op, code)
    trtp.aot_impl(name)(_signed(compile_, tensors | attributes | outputs | tactic, compiled))


def _signed(function: Callable[..., Any], annotations: Mapping[str, Any], returns: Any) -> Callable[..., Any]:
    """``function`` with the named parameters that TensorRT checks, and by which it calls it."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, annotation=of) for name, of in annotations.items()]
    signature = inspect.Signature(parameters, return_annotation=returns)

    def call(*positional: Any, **named: Any) -> Any:
        return function(*signature.bind(*positional, **named).args)

    call.__signature__ = signature  # type: ignore[attr-defined]  # TensorRT reads it
    return call


def _describe(trtp: Any, op: PluginOp, *given: Any) -> Any:
    """Shape and type of the output, from those of the inputs."""
    tensors, attributes = _parted(op, given)
    op.check_ranks([len(tensor.shape_expr) for tensor in tensors])
    _scalar(op, tensors)
    output = op.output_shape(_shapes(trtp, tensors), attributes)
    if any(dim.is_fake for tensor in tensors for dim in tensor.shape_expr):  # only the type is asked for
        output = tuple(trtp.ShapeExpr() for _ in output)
    return trtp.from_shape_expr(tuple(map(expression_of, output)), tensors[0].dtype)


def _tune(trtp: Any, op: PluginOp, *given: Any) -> list[Any]:
    """The same type for all, rows of numbers without gaps."""
    kinds = ", ".join(["FP32|FP16|BF16"] * (len(op.inputs) + 1))
    return [trtp.AutoTuneCombination(kinds, "LINEAR", [_TACTIC])]


def _compile(trtp: Any, op: PluginOp, code: Code, *given: Any) -> tuple[str, bytes, Any, Any]:
    """The kernel's name and code, its launch, and the numbers that it takes between its inputs and its output."""
    tensors, attributes = _parted(op, given)
    shapes, scalar = _shapes(trtp, tensors), _scalar(op, tensors)
    launch = op.launch(shapes, attributes)
    parameters = trtp.KernelLaunchParams(*map(expression_of, launch.grid), *launch.block)
    numbers = trtp.SymIntExprs.from_tuple(tuple(trtp.SymInt32(expression_of(number)) for number in launch.numbers))
    constants = known(op.constants(shapes, attributes), op.name)
    return op.entry(scalar), _code(op, scalar, code, constants), parameters, numbers


def _code(op: PluginOp, scalar: Scalar, code: Code, constants: dict[str, int]) -> bytes:
    from trt_plugins import on_device  # loads CUDA's bindings

    architecture = on_device.current_architecture()
    if code == "ptx":
        return cubins.ptx(op, scalar, min(architecture, _OLDEST), constants).encode()
    return cubins.cubin(op, scalar, architecture, constants)


def _parted(op: PluginOp, given: Sequence[Any]) -> tuple[Sequence[Any], Attributes]:
    """Inputs and attributes of a call, without the outputs and the tactic that may follow."""
    count = len(op.inputs)
    attributes = map(int, given[count : count + len(op.attributes)])
    return given[:count], dict(zip(op.attributes, attributes, strict=True))


def _scalar(op: PluginOp, tensors: Sequence[Any]) -> Scalar:
    return op.scalar_of([tensor.dtype.name for tensor in tensors])


def _shapes(trtp: Any, tensors: Sequence[Any]) -> list[tuple[int | Symbol, ...]]:
    def combine(operation: Operation, left: Any, right: Any) -> Any:
        # TensorRT takes a stand-in on the left only. Of an int no expression may be made then: the builder that it
        # would ask is that of the plugin before, or gone.
        if any(isinstance(operand, trtp.ShapeExpr) and operand.is_fake for operand in (left, right)):
            return trtp.ShapeExpr()
        # An int has none of TensorRT's operators, so the left one becomes an expression.
        return _OPERATORS[operation](trtp.ShapeExpr(left) if isinstance(left, int) else left, right)

    def dim(expression: Any) -> int | Symbol:
        # Types are asked for before shapes are there; then every dim is a stand-in ("fake").
        fixed = not expression.is_fake and expression.is_constant
        return int(expression.constant_value()) if fixed else Symbol(expression, combine)

    return [tuple(map(dim, tensor.shape_expr)) for tensor in tensors]
