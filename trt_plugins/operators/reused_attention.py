"""ReusedAttention for TensorRT; the op is skipvit.ops.reused_attention, the kernel kernels/reused_attention.cu."""

from trt_plugins.operators import token_matrix
from trt_plugins.plugin_op import Attributes, Dim, Launch, PluginOp, Shapes, check_equal, check_heads


def _output_shape(shapes: Shapes, attributes: Attributes) -> tuple[Dim, ...]:
    (images, heads, rows, columns), (batch, tokens, channels) = shapes
    check_heads("ReusedAttention", channels, attributes["num_heads"])
    check_equal("ReusedAttention's num_heads and its attention's heads", attributes["num_heads"], heads)
    check_equal("ReusedAttention's tokens and its attention's rows and columns", tokens, rows, columns)
    check_equal("ReusedAttention's images and its attention's", batch, images)
    return (batch, tokens, channels)


def _tiles(shapes: Shapes) -> token_matrix.Tiles:
    rows, columns = shapes[0][-2:]
    return token_matrix.tiles(rows, columns, column_warps=1)  # heads of more than 64 channels are rare


def _launch(shapes: Shapes, attributes: Attributes) -> Launch:
    batch, tokens, channels = shapes[1]
    heads, tiles = attributes["num_heads"], _tiles(shapes)
    width = channels // heads
    return Launch((tiles.blocks(tokens, width) * heads * batch, 1, 1), tiles.block, (batch, heads, tokens, width))


OP = PluginOp(
    name="ReusedAttention",
    kernel="reused_attention",
    inputs=("attention", "v"),
    attributes=("num_heads",),
    ranks=((4,), (3,)),
    output_shape=_output_shape,
    launch=_launch,
    constants=lambda shapes, attributes: _tiles(shapes).constants,
)
