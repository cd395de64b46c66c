"""EcaGate for TensorRT; the op is skipvit.ops.eca_gate, the kernel kernels/eca_gate.cu."""

from trt_plugins.plugin_op import Attributes, Dim, Launch, PluginOp, Shapes, cdiv

_SLICE, _NARROWEST = 128, 16  # channels of a block
_TAPS = 63  # with which a slice and the channels beside it still lie in a row of threads
_MANY_TOKENS, _MOST_THREADS = 2048, 1024
_ENOUGH = 132  # blocks: one for each multiprocessor of a large GPU


def _output_shape(shapes: Shapes, _: Attributes) -> tuple[Dim, ...]:
    batch, _tokens, channels = shapes[0]
    return (batch, 1, channels)


def _launch(shapes: Shapes, _: Attributes) -> Launch:
    batch, tokens, channels = shapes[0]
    parts = cdiv(channels, _SLICE)
    parts = parts * (1 + _ENOUGH // (batch * parts))  # narrower slices where images are few
    wide = _NARROWEST * cdiv(channels, _NARROWEST * parts)
    threads = _MOST_THREADS if isinstance(tokens, int) and tokens >= _MANY_TOKENS else 256
    return Launch((batch * cdiv(channels, wide), 1, 1), (threads, 1, 1), (tokens, channels, _taps(shapes), wide))


def _taps(shapes: Shapes) -> int:
    taps = shapes[1][2]
    if not isinstance(taps, int) or tuple(shapes[1][:2]) != (1, 1) or taps % 2 == 0 or taps > _TAPS:
        raise ValueError(
            f"EcaGate's kernel takes a weight of shape (1, 1, k), k odd, at most {_TAPS} and fixed in the graph; "
            f"it got {tuple(shapes[1])}"
        )
    return taps


OP = PluginOp(
    name="EcaGate",
    kernel="eca_gate",
    inputs=("x", "weight"),
    attributes=(),
    ranks=((3,), (3,)),
    output_shape=_output_shape,
    launch=_launch,
)
