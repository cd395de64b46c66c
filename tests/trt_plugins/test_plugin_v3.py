"""The Python plugins by themselves; test_rtx_plugins.py has TensorRT-RTX call them."""

import types
from typing import Any

import numpy as np
import pytest

from tests.trt_plugins.stand_in_tensorrt import BF16, FLOAT, HALF, HEADS, INT8, Field, stand_in
from trt_plugins import on_device, plugin_v3
from trt_plugins.operators import eca_gate
from trt_plugins.plugin_op import PluginOp


@pytest.fixture
def trt() -> Any:
    return stand_in()


def made(trt: Any, op: PluginOp, **attributes: int) -> Any:
    (creator,) = plugin_v3.creators(trt, [op])
    fields = [Field(name, np.array([value], np.int32), "INT32") for name, value in attributes.items()]
    return creator.create_plugin(op.name, fields, "BUILD")


def test_a_creator_names_what_the_parser_is_to_read(trt: Any) -> None:
    (creator,) = plugin_v3.creators(trt, [HEADS])
    assert (creator.name, creator.plugin_namespace, creator.plugin_version) == ("Heads", "skipvit", "1")
    assert [(field.name, field.type, len(field.data)) for field in creator.field_names] == [("num_heads", "INT32", 0)]


def test_a_plugin_comes_back_from_what_it_writes(trt: Any) -> None:
    plugin = made(trt, HEADS, num_heads=3)
    written = plugin.clone().attach_to_context(None).get_fields_to_serialize()
    (creator,) = plugin_v3.creators(trt, [HEADS])
    again = creator.create_plugin("Heads", written, "RUNTIME")
    assert again.attributes == {"num_heads": 3}
    assert again.initialised == 4  # each of TensorRT's base classes
    assert (again.num_outputs, again.plugin_name, again.plugin_namespace) == (1, "Heads", "skipvit")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Heads takes the attributes: num_heads; it got: none"),
        ({"num_heads": np.array([2]), "heads": np.array([2])}, "it got: heads, num_heads"),
        ({"num_heads": np.array([2, 3])}, r"Heads's num_heads must be one whole number; it is \[2, 3\]"),
        ({"num_heads": np.array([2.5])}, r"must be one whole number; it is \[2.5\]"),
    ],
)
def test_attributes_that_do_not_fit_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plugin_v3.attributes_of(HEADS, given)


def test_an_op_without_attributes_takes_none() -> None:
    assert plugin_v3.attributes_of(eca_gate.OP, {}) == {}
    with pytest.raises(ValueError, match="EcaGate takes the attributes: none; it got: k"):
        plugin_v3.attributes_of(eca_gate.OP, {"k": np.array([3])})


@pytest.mark.parametrize(
    ("ranks", "message"), [([3], "takes 2 inputs"), ([4, 2], "x must have 3 dim"), ([3, 1], "matrix must have 2 or 3")]
)
def test_inputs_of_another_number_or_rank_are_refused(trt: Any, ranks: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(trt, HEADS, num_heads=1).get_output_shapes([range(rank) for rank in ranks], [], None)


def test_the_output_has_the_type_of_the_inputs(trt: Any) -> None:
    plugin = made(trt, HEADS, num_heads=1)
    for kind in (FLOAT, HALF, BF16):
        assert plugin.get_output_data_types([kind, kind]) == [kind]
    for kinds in ([FLOAT, HALF], [INT8, INT8]):
        with pytest.raises(ValueError, match=f"it got {', '.join(kinds)}"):
            plugin.get_output_data_types(kinds)


def test_formats_are_linear_and_of_one_type(trt: Any) -> None:
    def offered(*tensors: tuple[str, str]) -> bool:
        given = [
            types.SimpleNamespace(desc=types.SimpleNamespace(type=kind, format=layout)) for kind, layout in tensors
        ]
        return bool(plugin.supports_format_combination(len(given) - 1, given, 2))

    plugin = made(trt, HEADS, num_heads=1)
    assert all(offered((kind, "LINEAR")) for kind in (FLOAT, HALF, BF16))
    assert offered((HALF, "LINEAR"), (HALF, "LINEAR"), (HALF, "LINEAR"))
    assert not offered((INT8, "LINEAR"))
    assert not offered((HALF, "CHW4"))
    assert not offered((HALF, "LINEAR"), (HALF, "LINEAR"), (FLOAT, "LINEAR"))


def test_enqueue_launches_the_kernel(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[Any] = []
    monkeypatch.setattr(on_device, "launch", lambda *arguments: launched.append(arguments))
    tensors = [types.SimpleNamespace(type=BF16, dims=dims) for dims in ((2, 5, 8), (4, 5))]
    made(trt, HEADS, num_heads=2).enqueue(tensors, [], [10, 20], [30], 0, 7)
    assert launched == [(HEADS, "bf16", [(2, 5, 8), (4, 5)], {"num_heads": 2}, [10, 20, 30], 7)]
