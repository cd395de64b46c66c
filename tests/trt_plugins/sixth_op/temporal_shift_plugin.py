"""Step 4 of trt_plugins/README.md: what TensorRT, a GPU and a test need to know of TemporalShift."""

from pathlib import Path

from trt_plugins.plugin_op import Attributes, Dim, Launch, PluginOp, Shapes, cdiv

_THREADS = 256  # as in the kernel


def _output_shape(shapes: Shapes, _: Attributes) -> tuple[Dim, ...]:
    return tuple(shapes[0])


def _launch(shapes: Shapes, attributes: Attributes) -> Launch:
    batch, frames, channels = shapes[0]
    grid = (batch * cdiv(frames * channels, _THREADS), 1, 1)
    return Launch(grid, (_THREADS, 1, 1), (frames, channels, attributes["fold"]))


OP = PluginOp(
    name="TemporalShift",
    kernel="temporal_shift",
    inputs=("x",),
    attributes=("fold",),
    ranks=((3,),),
    output_shape=_output_shape,
    launch=_launch,
    folder=Path(__file__).parent,
)
