"""TokenDwConvGelu for TensorRT; the op is skipvit.ops.token_dwconv_gelu, the kernel kernels/token_dwconv_gelu.cu."""

from trt_plugins.plugin_op import Attributes, Dim, Launch, PluginOp, Shapes, cdiv

_THREADS, _SLICE, _WIDTH = 256, 64, 16  # as in the kernel
_LARGEST = 9  # kernel size whose weight has room in shared memory
_ROWS = 32  # of a block at most, so that the last blocks do not keep the others' multiprocessors waiting
_ENOUGH = 264  # blocks: two for each multiprocessor of a large GPU


def _output_shape(shapes: Shapes, _: Attributes) -> tuple[Dim, ...]:
    return tuple(shapes[0])


def _launch(shapes: Shapes, attributes: Attributes) -> Launch:
    batch, height, width, channels = shapes[0]
    _kernel_size(shapes)
    columns = batch * cdiv(width, _WIDTH) * cdiv(channels, _SLICE)
    # Each block also reads the rows above and below its own: as many rows as a block may have, fewer for few images.
    parts = cdiv(height, _ROWS)
    rows = cdiv(height, parts * (1 + _ENOUGH // (columns * parts)))
    return Launch((columns * cdiv(height, rows), 1, 1), (_THREADS, 1, 1), (height, width, channels, rows))


def _constants(shapes: Shapes, _: Attributes) -> dict[str, int]:
    return {"KERNEL_SIZE": _kernel_size(shapes)}


def _kernel_size(shapes: Shapes) -> int:
    x, weight, bias = shapes
    size = weight[3]
    if not isinstance(size, int) or weight[1:] != (1, size, size) or size % 2 == 0 or size > _LARGEST:
        raise ValueError(
            f"TokenDwConvGelu's kernel takes a weight of shape (C, 1, r, r), r odd, at most {_LARGEST} and fixed "
            f"in the graph; it got {tuple(weight)}"
        )
    channels = [dim for dim in (x[3], weight[0], bias[0]) if isinstance(dim, int)]
    if len(set(channels)) > 1:
        raise ValueError(f"TokenDwConvGelu got {x[3]} channels, a weight for {weight[0]} and a bias for {bias[0]}")
    return size


OP = PluginOp(
    name="TokenDwConvGelu",
    kernel="token_dwconv_gelu",
    inputs=("x", "weight", "bias"),
    attributes=("channels",),
    ranks=((4,), (4,), (1,)),
    output_shape=_output_shape,
    launch=_launch,
    constants=_constants,
)
