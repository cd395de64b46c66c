"""Every kernel compiles for every GPU that we name, and takes the parameters that its plugin passes."""

import pytest

from trt_plugins import cubins
from trt_plugins.operators import ALL, eca_gate
from trt_plugins.plugin_op import SCALARS, Attributes, PluginOp, Scalar

# Shapes of the inputs, and attributes, that a model would have.
USUAL: dict[str, tuple[list[tuple[int, ...]], Attributes]] = {
    "TokenDwConvGelu": ([(2, 14, 14, 768), (768, 1, 5, 5), (768,)], {"channels": 768}),
    "EcaGate": ([(2, 197, 384), (1, 1, 3)], {}),
    "StaticAttention": ([(2, 197, 384), (6, 197, 197)], {"num_heads": 6}),
    "TokenPyramid": ([(2, 197, 384), (49, 196)], {"num_prefix": 1}),
    "ReusedAttention": ([(2, 6, 197, 197), (2, 197, 384)], {"num_heads": 6}),
}


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
@pytest.mark.parametrize("architecture", cubins.ARCHITECTURES)
def test_a_kernel_compiles_for_each_gpu(op: PluginOp, architecture: int) -> None:
    constants = op.constants(*USUAL[op.name])
    for scalar in SCALARS:
        assert cubins.cubin(op, scalar, architecture, constants).startswith(b"\x7fELF")


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
@pytest.mark.parametrize("scalar", SCALARS)
def test_a_kernel_takes_what_its_plugin_passes(op: PluginOp, scalar: Scalar) -> None:
    shapes, attributes = USUAL[op.name]
    text = cubins.ptx(op, scalar, 90, op.constants(shapes, attributes))
    assert cubins.parameters_of(text, op.entry(scalar)) == op.parameters(op.launch(shapes, attributes))


def test_a_kernel_that_does_not_compile_says_where() -> None:
    with pytest.raises(cubins.CompileError, match=r"eca_gate\.cu"):
        cubins.cubin(eca_gate.OP, "f32", 90, {"MOST_THREADS": 0})
