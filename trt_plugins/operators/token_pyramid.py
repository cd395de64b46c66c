"""TokenPyramid for TensorRT; the op is skipvit.ops.token_pyramid, the kernel kernels/token_pyramid.cu."""

from trt_plugins.operators import token_matrix
from trt_plugins.plugin_op import Attributes, Dim, Launch, PluginOp, Shapes, check_equal


def _output_shape(shapes: Shapes, attributes: Attributes) -> tuple[Dim, ...]:
    (batch, tokens, channels), matrix = shapes
    prefix = attributes["num_prefix"]
    if isinstance(prefix, int) and prefix < 0:
        raise ValueError(f"TokenPyramid's num_prefix must be 0 or more; it is {prefix}")
    check_equal("TokenPyramid's tokens and its prefix plus its matrix's columns", tokens, prefix + matrix[-1])
    if len(matrix) == 3:
        check_equal("TokenPyramid's images and its matrices", batch, matrix[0])
    return (batch, prefix + matrix[-2], channels)


def _tiles(shapes: Shapes) -> token_matrix.Tiles:
    rows, columns = shapes[1][-2:]
    return token_matrix.tiles(rows, columns, column_warps=2)


def _launch(shapes: Shapes, attributes: Attributes) -> Launch:
    (batch, _tokens, channels), matrix = shapes
    rows, columns, own = matrix[-2], matrix[-1], len(matrix) == 3
    tiles = _tiles(shapes)
    blocks = tiles.blocks(rows, channels) * batch if own else tiles.blocks(rows, batch * channels)
    numbers = (batch, rows, columns, channels, attributes["num_prefix"], int(own))
    return Launch((blocks, 1, 1), tiles.block, numbers)


OP = PluginOp(
    name="TokenPyramid",
    kernel="token_pyramid",
    inputs=("x", "matrix"),
    attributes=("num_prefix",),
    ranks=((3,), (2, 3)),
    output_shape=_output_shape,
    launch=_launch,
    constants=lambda shapes, attributes: _tiles(shapes).constants,
)
