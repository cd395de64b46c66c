"""What all our ONNX nodes share: the domain, its version, and the attributes by which TensorRT finds a plugin.

A node carries ``plugin_namespace`` and ``plugin_version``, so TensorRT takes the plugin of that name when one is
registered; otherwise TensorRT, like ONNX Runtime, runs the FunctionProto of the same name.
"""

from collections.abc import Callable
from typing import Any, Protocol

import onnx
from onnx.defs import OpSchema
from onnxscript.values import Op, Opset

DOMAIN = "skipvit"
VERSION = 1
PLUGIN_ATTRIBUTES = {"plugin_namespace": DOMAIN, "plugin_version": str(VERSION)}

_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]


class NodeOp(Protocol):
    """What a module has that says how a torch op is written to ONNX; export/ops/eca_gate.py is one.

    Attributes:
        NAME: of the node.
        TORCH_OP: the overload that it stands for, such as ``torch.ops.skipvit.eca_gate.default``.
        record: makes the node in place of a call of the torch op, with the arguments of that call.
        body: the op over standard nodes, for an opset.
    """

    @property
    def NAME(self) -> str: ...
    @property
    def TORCH_OP(self) -> Any: ...
    @property
    def record(self) -> Callable[..., Any]: ...
    @property
    def body(self) -> Callable[[int], onnx.FunctionProto]: ...


def node_op(name: str, inputs: list[str], attributes: dict[str, Any]) -> Op:
    """The op as the exporter records it: tensors of one floating type in, one tensor of that type out."""
    kinds = {str: OpSchema.AttrType.STRING, int: OpSchema.AttrType.INT}
    schema = OpSchema(
        name,
        DOMAIN,
        VERSION,
        inputs=[OpSchema.FormalParameter(i, "T") for i in inputs],
        outputs=[OpSchema.FormalParameter("y", "T")],
        type_constraints=[("T", _FLOATS, "floating point")],
        attributes=[OpSchema.Attribute(a, kinds[kind], "") for a, kind in attributes.items()],
    )
    return Op(Opset(DOMAIN, VERSION), name, schema)


def function(
    name: str, inputs: list[str], attributes: list[str], nodes: list[onnx.NodeProto], opset: int
) -> onnx.FunctionProto:
    """The body of an op as a function of ``inputs`` and ``attributes`` to ``y``, over standard nodes of ``opset``."""
    return onnx.helper.make_function(
        DOMAIN,
        name,
        inputs,
        ["y"],
        nodes,
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        attributes=[*attributes, *PLUGIN_ATTRIBUTES],
    )


def node_of(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    """A standard node; an attribute given as ``Ref("name")`` takes the value of the function's attribute."""
    references = {key: value for key, value in attributes.items() if isinstance(value, Ref)}
    plain = {key: value for key, value in attributes.items() if key not in references}
    node = onnx.helper.make_node(op, inputs, outputs, **plain)
    for key, reference in references.items():
        attribute = onnx.AttributeProto(name=key, ref_attr_name=reference.name, type=reference.kind)
        node.attribute.append(attribute)
    return node


class Ref:
    """A reference to an attribute of the enclosing function."""

    def __init__(self, name: str, kind: onnx.AttributeProto.AttributeType = onnx.AttributeProto.INT) -> None:
        self.name, self.kind = name, kind
