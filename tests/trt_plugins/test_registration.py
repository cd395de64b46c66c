"""What register puts into TensorRT's registry: each op once, in every TensorRT that is given."""

import types
from typing import Any

import pytest

from tests.trt_plugins.stand_in_tensorrt import HEADS, stand_in
from trt_plugins.flavors import Tensorrt
from trt_plugins.operators import eca_gate
from trt_plugins.registration import RegistrationError, register


class Registry:
    """Holds creators as TensorRT's does."""

    def __init__(self, accepts: bool = True) -> None:
        self.all_creators: list[Any] = []
        self.accepts = accepts

    def register_creator(self, creator: Any, namespace: str) -> bool:
        assert namespace == "skipvit"
        self.all_creators.append(creator)
        return self.accepts


def tensorrt(registry: Registry) -> Tensorrt:
    module = stand_in()
    module.get_plugin_registry = lambda: registry
    return Tensorrt(module, "tensorrt-rtx", "1.7.1")


def names(registry: Registry) -> list[str]:
    return [creator.name for creator in registry.all_creators]


def test_each_op_is_registered_once() -> None:
    registry = Registry()
    opened = tensorrt(registry)
    assert register(opened, [HEADS]) == ("Heads",)
    assert register(opened, [eca_gate.OP, HEADS]) == ("EcaGate", "Heads")
    assert register(opened, [eca_gate.OP, HEADS]) == ("EcaGate", "Heads")
    assert names(registry) == ["Heads", "EcaGate"]


def test_each_tensorrt_has_plugins_of_its_own() -> None:
    first, second = Registry(), Registry()
    for registry in (first, second):
        register(tensorrt(registry), [HEADS])
    assert names(first) == names(second) == ["Heads"]
    assert first.all_creators[0] is not second.all_creators[0]


def test_a_plugin_of_another_version_or_namespace_is_not_ours() -> None:
    registry = Registry()
    registry.all_creators = [
        types.SimpleNamespace(name="Heads", plugin_version="2", plugin_namespace="skipvit"),
        types.SimpleNamespace(name="Heads", plugin_version="1", plugin_namespace=""),
    ]
    register(tensorrt(registry), [HEADS])
    assert names(registry) == ["Heads"] * 3


def test_a_refusal_is_an_error() -> None:
    with pytest.raises(RegistrationError, match="refuses the plugin skipvit::Heads"):
        register(tensorrt(Registry(accepts=False)), [HEADS])
