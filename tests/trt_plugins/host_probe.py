"""A kernel that does, one way at a time, what a kernel may or must not do, for tests of the host that runs it.

Run as a program it launches the probe in one way; what must not be done ends the program.
"""

import sys
from pathlib import Path

import numpy as np

from trt_plugins import on_host
from trt_plugins.plugin_op import Attributes, Dim, Launch, PluginOp, Shapes

WAYS = (
    "copy",
    "write before",
    "write behind",
    "leave some",
    "write an input",
    "leave before a barrier",
    "meet at two barriers",
    "ask a lane that is not there",
    "read a copy too early",
    "copy asynchronously",
    "read behind",
    "read far before",
    "read and write without a barrier",
    "read and write around a barrier",
    "read shared memory that nobody wrote",
)
SOURCE = """#include "async_copy.cuh"

extern "C" __global__ void ENTRY(probe)(const Scalar* x, int count, int way, Scalar* y) {
  alignas(16) __shared__ Scalar copies[1024 * WIDE];
  const int i = threadIdx.x;
  if (i < count - (way == 3)) y[i] = x[i];
  if (way == 1 && i == 0) y[-1] = x[0];
  if (way == 2 && i == 0) y[count] = x[0];
  if (way == 4 && i == 0) const_cast<Scalar*>(x)[0] = y[1];
  if (way == 5 && i % 2 == 0) __syncthreads();
  if (way == 6) i % 2 ? __syncthreads() : __syncwarp();
  if (way == 7) __shfl_sync(~0u, 1.0f, 31);
  if (way == 8 || way == 9) {
    copy_16_async(x, i % 2 == 0, copies + i * WIDE);
    end_group();
    if (way == 9) wait_for_groups<0>();
    if (i < count) y[i] = copies[i * WIDE];
  }
  if (way == 10 && i == 0) y[0] = x[count];
  if (way == 11 && i == 0) y[0] = x[-1024];
  if (way == 14 && i < count) y[i] = copies[i];
  if (way == 12 || way == 13) {  // every thread reads what another is to write
    copies[i] = as_scalar<Scalar>(1);
    __syncthreads();
    const Scalar before = copies[(i + 37) % blockDim.x];
    if (way == 13) __syncthreads();
    copies[i] = as_scalar<Scalar>(2);
    if (i < count) y[i] = before;
  }
}
"""


def probe(folder: Path, source: str = SOURCE) -> PluginOp:
    """The probe, its source written to ``folder``; attributes are ``threads`` and ``way``, which counts in `WAYS`."""
    (folder / "probe.cu").write_text(source, encoding="utf-8")

    def output_shape(shapes: Shapes, _: Attributes) -> tuple[Dim, ...]:
        return shapes[0]

    def launch(shapes: Shapes, attributes: Attributes) -> Launch:
        return Launch((1, 1, 1), (attributes["threads"], 1, 1), (shapes[0][0], attributes["way"]))

    return PluginOp("Probe", "probe", ("x",), ("threads", "way"), ((1,),), output_shape, launch, folder=folder)


if __name__ == "__main__":
    x = np.arange(8, dtype=np.float32)
    made = probe(Path(sys.argv[1]))
    on_host.run(made, "f32", [x], {"threads": int(sys.argv[2]), "way": WAYS.index(sys.argv[3])})
