"""StaticAttention for TensorRT; the op is skipvit.ops.static_attention, the kernel kernels/static_attention.cu."""

from trt_plugins.operators import token_matrix
from trt_plugins.plugin_op import Attributes, Dim, Launch, PluginOp, Shapes


def _output_shape(shapes: Shapes, _: Attributes) -> tuple[Dim, ...]:
    (batch, _tokens, channels), matrix = shapes
    return (batch, matrix[1], channels)


def _launch(shapes: Shapes, attributes: Attributes) -> Launch:
    (batch, tokens, channels), matrix = shapes
    heads, rows = attributes["num_heads"], matrix[1]
    width = channels // heads
    grid = (token_matrix.blocks(batch, heads, rows, tokens, width, own=False), 1, 1)
    return Launch(grid, (token_matrix.THREADS, 1, 1), (batch, heads, rows, tokens, width))


OP = PluginOp(
    name="StaticAttention",
    kernel="static_attention",
    inputs=("v", "matrix"),
    attributes=("num_heads",),
    ranks=((3,), (3,)),
    output_shape=_output_shape,
    launch=_launch,
)
