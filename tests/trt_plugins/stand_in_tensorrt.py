"""What our plugins use of the module ``tensorrt``, in plain Python, and an op for it. No test of its own."""

import types
from typing import Any

from trt_plugins.plugin_op import Launch, PluginOp

HEADS = PluginOp(
    name="Heads",
    kernel="eca_gate",
    inputs=("x", "matrix"),
    attributes=("num_heads",),
    ranks=((3,), (2, 3)),
    output_shape=lambda shapes, attributes: (shapes[0][0], shapes[1][-2] * attributes["num_heads"], shapes[0][2]),
    launch=lambda shapes, attributes: Launch((1, 1, 1), (1, 1, 1), ()),
)


class Base:
    """Stands for a base class of TensorRT's, which has to be initialised explicitly."""

    def __init__(self) -> None:
        self.initialised = getattr(self, "initialised", 0) + 1


class Field(types.SimpleNamespace):
    def __init__(self, name: str, data: Any, kind: str) -> None:
        super().__init__(name=name, data=data, type=kind)


class Name(str):
    """A member of one of TensorRT's enumerations."""

    @property
    def name(self) -> str:
        return str(self)


FLOAT, HALF, BF16, INT8 = map(Name, ("FLOAT", "HALF", "BF16", "INT8"))


def stand_in() -> Any:
    """The module, as far as plugins use it."""
    bases = ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime", "IPluginCreatorV3One")
    return types.SimpleNamespace(
        **{name: type(name, (Base,), {}) for name in bases},
        PluginField=Field,
        PluginFieldCollection=list,
        PluginFieldType=types.SimpleNamespace(INT32="INT32"),
        TensorFormat=types.SimpleNamespace(LINEAR="LINEAR"),
    )
