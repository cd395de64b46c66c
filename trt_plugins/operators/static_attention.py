"""StaticAttention for TensorRT; the op is skipvit.ops.static_attention, the kernel kernels/static_attention.cu."""

from trt_plugins.operators import token_matrix
from trt_plugins.plugin_op import Attributes, Dim, Launch, PluginOp, Shapes, check_equal, check_heads


def _output_shape(shapes: Shapes, attributes: Attributes) -> tuple[Dim, ...]:
    (batch, tokens, channels), matrix = shapes
    heads = attributes["num_heads"]
    check_heads("StaticAttention", channels, heads)
    check_equal("StaticAttention's num_heads and its matrix's heads", heads, matrix[0])
    check_equal("StaticAttention's tokens and its matrix's columns", tokens, matrix[2])
    return (batch, matrix[1], channels)


def _tiles(shapes: Shapes) -> token_matrix.Tiles:
    _heads, rows, columns = shapes[1]
    return token_matrix.tiles(rows, columns, column_warps=2)


def _launch(shapes: Shapes, attributes: Attributes) -> Launch:
    (batch, tokens, channels), matrix = shapes
    heads, rows = attributes["num_heads"], matrix[1]
    width, tiles = channels // heads, _tiles(shapes)
    blocks = tiles.blocks(rows, batch * width) * heads  # the columns of a head run on through the images
    return Launch((blocks, 1, 1), tiles.block, (batch, heads, rows, tokens, width))


OP = PluginOp(
    name="StaticAttention",
    kernel="static_attention",
    inputs=("v", "matrix"),
    attributes=("num_heads",),
    ranks=((3,), (3,)),
    output_shape=_output_shape,
    launch=_launch,
    constants=lambda shapes, attributes: _tiles(shapes).constants,
)
