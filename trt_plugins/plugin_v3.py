"""Our ops as IPluginV3 classes in Python: what TensorRT-RTX takes, and what TensorRT before 10.10 gets.

TensorRT calls the methods by name, so the names and arguments below are its own. An error that a method raises is
printed by TensorRT with the name of the method, and the graph or the engine is refused.
"""

import types
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from trt_plugins.plugin_op import NAMESPACE, SCALAR_OF_TYPE, VERSION, PluginOp
from trt_plugins.symbols import Operation, Symbol, expression_of, known


def creators(trt: Any, ops: Sequence[PluginOp]) -> list[Any]:
    """One creator an op, by which the parser and the runtime make its plugin; to be given to TensorRT's registry.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
    """
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)
    names = {"trt": trt, "bases": bases}
    plugin = types.new_class("Plugin", (_Plugin, *bases), exec_body=lambda body: body.update(names))
    made = {"trt": trt, "plugin": plugin}
    creator = types.new_class("Creator", (_Creator, trt.IPluginCreatorV3One), exec_body=lambda body: body.update(made))
    return [creator(op) for op in ops]


class _Creator:
    trt: ClassVar[Any]
    plugin: ClassVar[Any]

    def __init__(self, op: PluginOp) -> None:
        self.trt.IPluginCreatorV3One.__init__(self)
        self.op = op
        self.name, self.plugin_namespace, self.plugin_version = op.name, NAMESPACE, VERSION
        kind = self.trt.PluginFieldType.INT32
        fields = [self.trt.PluginField(name, np.array([], np.int32), kind) for name in op.attributes]
        self.field_names = self.trt.PluginFieldCollection(fields)

    def create_plugin(self, name: str, field_collection: Any, phase: Any) -> Any:
        """A plugin for one node of a graph, or for one that comes back from an engine."""
        return self.plugin(self.op, attributes_of(self.op, {field.name: field.data for field in field_collection}))


class _Plugin:
    trt: ClassVar[Any]
    bases: ClassVar[tuple[Any, ...]]

    def __init__(self, op: PluginOp, attributes: dict[str, int]) -> None:
        for base in self.bases:
            base.__init__(self)
        self.op, self.attributes = op, attributes
        self.plugin_name, self.plugin_namespace, self.plugin_version = op.name, NAMESPACE, VERSION
        self.num_outputs = 1

    def clone(self) -> Any:
        return type(self)(self.op, self.attributes)

    def get_capability_interface(self, kind: Any) -> Any:
        return self

    # While an engine is built

    def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
        self.op.scalar_of([kind.name for kind in input_types])
        return [input_types[0]]

    def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], expressions: Any) -> list[Any]:
        def combine(operation: Operation, left: Any, right: Any) -> Any:
            return expressions.operation(self.trt.DimensionOperation.__members__[operation], term(left), term(right))

        def term(operand: Any) -> Any:
            return expressions.constant(operand) if isinstance(operand, int) else operand

        def dim(expression: Any) -> int | Symbol:
            return expression.get_constant_value() if expression.is_constant() else Symbol(expression, combine)

        self.op.check_ranks([len(shape) for shape in inputs])
        shapes = [tuple(map(dim, shape)) for shape in inputs]
        known(self.op.constants(shapes, self.attributes), self.op.name)  # a kernel that cannot be is refused here
        output = self.op.output_shape(shapes, self.attributes)
        made = self.trt.DimsExprs(len(output))
        for i, value in enumerate(output):
            made[i] = term(expression_of(value))
        return [made]

    def supports_format_combination(self, position: int, tensors: Sequence[Any], num_inputs: int) -> bool:
        """Rows of numbers without gaps, and one type throughout."""
        given = tensors[position].desc
        return (
            given.format == self.trt.TensorFormat.LINEAR
            and given.type.name in SCALAR_OF_TYPE
            and given.type == tensors[0].desc.type
        )

    def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Nothing to prepare: what a launch needs follows from the shapes."""

    def get_workspace_size(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        return 0

    def get_valid_tactics(self) -> list[int]:
        """There is one way to compute an op; TensorRT calls it 0."""
        return []

    def get_fields_to_serialize(self) -> Any:
        kind = self.trt.PluginFieldType.INT32
        self._values = {name: np.array([value], np.int32) for name, value in self.attributes.items()}
        fields = [self.trt.PluginField(name, value, kind) for name, value in self._values.items()]
        self._fields = self.trt.PluginFieldCollection(fields)  # TensorRT reads it after this method has returned
        return self._fields

    # When an engine runs

    def set_tactic(self, tactic: int) -> None:
        """There is but one."""

    def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Shapes are read at each launch."""

    def attach_to_context(self, context: Any) -> Any:
        return self.clone()

    def enqueue(
        self,
        input_desc: Sequence[Any],
        output_desc: Sequence[Any],
        inputs: Sequence[int],
        outputs: Sequence[int],
        workspace: int,
        stream: int,
    ) -> None:
        from trt_plugins import on_device  # loads CUDA's bindings, which a build does without

        shapes = [tuple(desc.dims) for desc in input_desc]
        scalar = self.op.scalar_of([desc.type.name for desc in input_desc])
        on_device.launch(self.op, scalar, shapes, self.attributes, [*inputs, *outputs], stream)


def attributes_of(op: PluginOp, given: dict[str, Any]) -> dict[str, int]:
    """An op's attributes from arrays of one whole number each.

    Raises:
        ValueError: one is missing, unknown, or something else than one whole number.
    """
    if set(given) != set(op.attributes):
        wanted = ", ".join(op.attributes) or "none"
        raise ValueError(f"{op.name} takes the attributes: {wanted}; it got: {', '.join(sorted(given)) or 'none'}")
    arrays = {name: np.asarray(given[name]) for name in op.attributes}
    for name, array in arrays.items():
        if array.size != 1 or array.dtype.kind not in "iu":
            raise ValueError(f"{op.name}'s {name} must be one whole number; it is {array.tolist()}")
    return {name: int(array.reshape(-1)[0]) for name, array in arrays.items()}
