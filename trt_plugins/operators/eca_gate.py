"""EcaGate for TensorRT; the op is skipvit.ops.eca_gate, the kernel kernels/eca_gate.cu."""

from trt_plugins.plugin_op import Attributes, Dim, Launch, PluginOp, Shapes, cdiv

_THREADS, _SLICE = 256, 128  # as in the kernel


def _output_shape(shapes: Shapes, _: Attributes) -> tuple[Dim, ...]:
    batch, _tokens, channels = shapes[0]
    return (batch, 1, channels)


def _launch(shapes: Shapes, _: Attributes) -> Launch:
    (batch, tokens, channels), weight = shapes
    return Launch((batch * cdiv(channels, _SLICE), 1, 1), (_THREADS, 1, 1), (tokens, channels, weight[2]))


OP = PluginOp(
    name="EcaGate",
    kernel="eca_gate",
    inputs=("x", "weight"),
    attributes=(),
    ranks=((3,), (3,)),
    output_shape=_output_shape,
    launch=_launch,
)
