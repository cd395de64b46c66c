"""Quick plugins, called as TensorRT's builder calls them; the module tensorrt.plugin is stand_in_quick.py's."""

import sys
import types
from typing import Any

import pytest

from tests.trt_plugins.stand_in_quick import Definition, QuickPlugins, ShapeExpr, TensorDesc, creators_of
from tests.trt_plugins.test_compilation import USUAL
from trt_plugins import cubins, on_device
from trt_plugins.flavors import Tensorrt
from trt_plugins.operators import ALL, eca_gate
from trt_plugins.plugin_op import PluginOp
from trt_plugins.quick_plugin import define
from trt_plugins.registration import register

HALF, FLOAT = types.SimpleNamespace(name="HALF"), types.SimpleNamespace(name="FLOAT")
every_op = pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)


def defined(op: PluginOp, code: Any = "cubin") -> Definition:
    quick = QuickPlugins()
    define(quick, op, code)
    (definition,) = quick.definitions.values()
    return definition


def batches_later(op: PluginOp, dtype: Any = HALF) -> list[TensorDesc]:
    """Inputs of usual shapes whose batch is known only when the engine runs."""
    shapes, _ = USUAL[op.name]
    batch = shapes[0][0]
    return [
        TensorDesc(tuple(ShapeExpr(dim, axis > 0 or dim != batch) for axis, dim in enumerate(shape)), dtype)
        for shape in shapes
    ]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked of the compilers, of which none runs."""
    asked: list[Any] = []

    def cubin(op: PluginOp, *rest: Any) -> bytes:
        asked.append(("cubin", op.name, *rest))
        return b"\x7fELF"

    def ptx(op: PluginOp, *rest: Any) -> str:
        asked.append(("ptx", op.name, *rest))
        return ".version"

    monkeypatch.setattr(cubins, "cubin", cubin)
    monkeypatch.setattr(cubins, "ptx", ptx)
    monkeypatch.setattr(on_device, "current_architecture", lambda: 89)
    return asked


@every_op
def test_signatures_are_those_of_the_record(op: PluginOp) -> None:
    definition = defined(op)
    assert (tuple(definition.inputs), tuple(definition.attributes)) == (op.inputs, op.attributes)
    assert definition.tune is not None
    assert definition.compile is not None


@every_op
def test_the_output_is_described_with_and_without_shapes(op: PluginOp) -> None:
    describe, (shapes, attributes) = defined(op).describe, USUAL[op.name]
    expected = op.output_shape(shapes, attributes)
    output = describe(*batches_later(op), **attributes)
    assert output.dtype is HALF
    assert tuple(getattr(dim, "value", dim) for dim in output.shape_expr) == expected
    fakes = [TensorDesc(tuple(ShapeExpr() for _ in shape), FLOAT) for shape in shapes]
    first = describe(*fakes, **attributes)
    assert (first.dtype, len(first.shape_expr)) == (FLOAT, len(expected))


@every_op
def test_all_are_linear_and_of_one_type(op: PluginOp) -> None:
    tune, (_, attributes) = defined(op).tune, USUAL[op.name]
    assert tune is not None
    (combination,) = tune(*batches_later(op), *attributes.values(), (None,))
    assert combination.io_types.split(", ") == ["FP32|FP16|BF16"] * (len(op.inputs) + 1)
    assert (combination.layouts, combination.tactics) == ("LINEAR", [1])


@every_op
@pytest.mark.parametrize(("code", "starts"), [("cubin", b"\x7fELF"), ("ptx", b".version")])
def test_the_kernel_comes_with_its_launch(op: PluginOp, code: str, starts: bytes, compiled: list[Any]) -> None:
    compile_, (shapes, attributes) = defined(op, code).compile, USUAL[op.name]
    assert compile_ is not None
    name, machine_code, launch, numbers = compile_(*batches_later(op), *attributes.values(), (None,), 1)
    expected = op.launch(shapes, attributes)
    assert name == op.entry("f16")
    assert machine_code.startswith(starts)
    assert launch.numbers == [*expected.grid, *expected.block]
    assert [number.value for number in numbers] == list(expected.numbers)
    architecture = {"cubin": 89, "ptx": 80}[code]  # PTX of Ampere runs on whatever is newer
    assert compiled == [(code, op.name, "f16", architecture, op.constants(shapes, attributes))]


def test_what_does_not_fit_is_refused(compiled: list[Any]) -> None:
    describe = defined(eca_gate.OP).describe
    x, weight = batches_later(eca_gate.OP)
    with pytest.raises(ValueError, match="EcaGate takes inputs of one type, FLOAT, HALF or BF16; it got HALF, FLOAT"):
        describe(x, TensorDesc(weight.shape_expr, FLOAT))
    with pytest.raises(ValueError, match="EcaGate's x must have 3 dimensions, not 2"):
        describe(TensorDesc(x.shape_expr[:2], HALF), weight)
    with pytest.raises(TypeError, match="missing a required argument: 'weight'"):
        describe(x)


def test_full_tensorrt_gets_each_quick_plugin_once(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = QuickPlugins()
    monkeypatch.setitem(sys.modules, "full", types.ModuleType("full"))
    monkeypatch.setitem(sys.modules, "full.plugin", quick)  # type: ignore[arg-type] - stands for the module
    module = types.SimpleNamespace(
        __name__="full",
        QuickPluginCreationRequest=None,
        get_plugin_registry=lambda: types.SimpleNamespace(all_creators=creators_of(quick)),
    )
    opened = Tensorrt(module, "tensorrt", "11.4")
    names = tuple(op.name for op in ALL)
    assert register(opened) == register(opened) == names
    assert list(quick.definitions) == [f"skipvit::{name}" for name in names]
