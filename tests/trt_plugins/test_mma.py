"""kernels/mma.cuh on the host keeps the layouts that the PTX ISA gives for mma.m16n8k16 and ldmatrix.

The layouts are written down here a second time, element by element as the ISA's section on matrix fragments has them.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trt_plugins.host_kernels import DTYPES, on_the_host
from trt_plugins.plugin_op import Launch, PluginOp, Scalar

PROBE = """
#include "mma.cuh"

// fragments (32, 12): 8 scalars of a and 4 of b a lane; matrices (32, 8): 4 of 8 x 8; y (32, 4 + 8 + 8).
extern "C" __global__ void ENTRY(probe)(const Scalar* fragments, const Scalar* matrices, Scalar* y) {
  __shared__ Pack<Scalar, 8> shared[32];
  const int lane = threadIdx.x;
  const uint32_t* const pairs = reinterpret_cast<const uint32_t*>(fragments) + lane * 6;
  for (int i = 0; i < 8; ++i) shared[lane].at[i] = matrices[lane * 8 + i];
  __syncthreads();
  float c[4] = {};
  multiply_add({pairs[0], pairs[1], pairs[2], pairs[3]}, {pairs[4], pairs[5]}, c);
  for (int i = 0; i < 4; ++i) y[lane * 20 + i] = as_scalar<Scalar>(c[i]);
  uint32_t loaded[2][4];
  load_matrices(shared[lane].at, loaded[0]);
  load_transposed(shared[lane].at, loaded[1]);
  for (int i = 0; i < 16; ++i)
    y[lane * 20 + 4 + i] = Scalar{uint16_t(loaded[i / 8][i % 8 / 2] >> (i % 2 * 16))};
}
"""


@pytest.fixture
def probe(tmp_path: Path) -> PluginOp:
    (tmp_path / "probe.cu").write_text(PROBE)
    return PluginOp(
        name="Probe",
        kernel="probe",
        inputs=("fragments", "matrices"),
        attributes=(),
        ranks=((2,), (2,)),
        output_shape=lambda shapes, attributes: (32, 20),
        launch=lambda shapes, attributes: Launch((1, 1, 1), (32, 1, 1), ()),
        folder=tmp_path,
    )


@pytest.mark.parametrize("scalar", ["f16", "bf16"])
def test_fragments_lie_as_the_isa_says(probe: PluginOp, scalar: Scalar) -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randint(-4, 5, shape, generator=generator).to(DTYPES[scalar]) for shape in ((16, 16), (16, 8)))
    matrices = (
        torch.randperm(256, generator=generator).view(32, 8).to(DTYPES[scalar])
    )  # 4 x (8, 8), one below the other
    fragments = torch.empty(32, 12, dtype=DTYPES[scalar])
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        for i in range(8):
            row = group if i < 2 or 4 <= i < 6 else group + 8
            fragments[lane, i] = a[row, thread * 2 + (i & 1) + (8 if i >= 4 else 0)]
        for i in range(4):
            fragments[lane, 8 + i] = b[thread * 2 + (i & 1) + (8 if i >= 2 else 0), group]

    y = on_the_host(probe, scalar, [fragments, matrices])

    product = a.double() @ b.double()  # whole numbers below 256: exact in both scalars
    assert product.abs().max() <= 256
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        for i in range(4):
            assert y[lane, i] == product[group + (8 if i >= 2 else 0), thread * 2 + (i & 1)]
        assert torch.equal(y[lane, 4:12], _of_lane(matrices, lane, transposed=False))
        assert torch.equal(y[lane, 12:20], _of_lane(matrices, lane, transposed=True))


def _of_lane(matrices: Tensor, lane: int, transposed: bool) -> Tensor:
    """Two neighbours of row lane / 4 from each of the four matrices, which are (32, 8) together."""
    four = matrices.view(4, 8, 8)
    four = four.mT if transposed else four
    return four[:, lane // 4, lane % 4 * 2 : lane % 4 * 2 + 2].reshape(8)
