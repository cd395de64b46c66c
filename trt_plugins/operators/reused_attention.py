"""ReusedAttention for TensorRT; the op is skipvit.ops.reused_attention, the kernel kernels/reused_attention.cu."""

from trt_plugins.operators import token_matrix
from trt_plugins.plugin_op import Attributes, Dim, Launch, PluginOp, Shapes


def _output_shape(shapes: Shapes, _: Attributes) -> tuple[Dim, ...]:
    return tuple(shapes[1])


def _launch(shapes: Shapes, attributes: Attributes) -> Launch:
    batch, tokens, channels = shapes[1]
    heads = attributes["num_heads"]
    width = channels // heads
    grid = (token_matrix.blocks(batch, heads, tokens, tokens, width, own=True), 1, 1)
    return Launch(grid, (token_matrix.THREADS, 1, 1), (batch, heads, tokens, width))


OP = PluginOp(
    name="ReusedAttention",
    kernel="reused_attention",
    inputs=("attention", "v"),
    attributes=("num_heads",),
    ranks=((4,), (3,)),
    output_shape=_output_shape,
    launch=_launch,
)
