"""float16 and bfloat16 as kernels on the host read and round them, against torch, in every bit pattern."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trt_plugins.host_probe import probe
from trt_plugins import on_host

SOURCE = """#include "device.cuh"

template <class T>
DEVICE float through(float x, bool widen) {
  T half;
  if (widen) {
    half.bits = uint16_t(x);  // x is the number of a bit pattern
    return to_float(half);
  }
  from_float(x, half);
  return float(half.bits);
}

extern "C" __global__ void ENTRY(probe)(const Scalar* x, int count, int way, Scalar* y) {
  for (int i = threadIdx.x; i < count; i += blockDim.x)
    y[i] = way % 2 ? through<bf16>(x[i], way / 2) : through<f16>(x[i], way / 2);
}
"""
DTYPES = [torch.float16, torch.bfloat16]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the probe is written and built."""
    made = tmp_path_factory.mktemp("kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(made))
        yield made


def through(folder: Path, x: Tensor, dtype: torch.dtype, widen: bool) -> Tensor:
    attributes = {"threads": 32, "way": 2 * widen + DTYPES.index(dtype)}
    return torch.from_numpy(on_host.run(probe(folder, SOURCE), "f32", [x.numpy()], attributes))


def patterns(dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.arange(65536).astype(np.uint16)).view(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pattern_is_read(folder: Path, dtype: torch.dtype) -> None:
    found = through(folder, torch.arange(65536.0), dtype, widen=True)
    torch.testing.assert_close(found, patterns(dtype).float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_to_nearest_even(folder: Path, dtype: torch.dtype) -> None:
    values = patterns(dtype).double()
    finite = values[values.isfinite()].unique()  # sorted
    ties = ((finite[1:] + finite[:-1]) / 2).float()  # float32 holds each exactly
    beside = [torch.nextafter(ties, torch.full_like(ties, end)) for end in (-torch.inf, torch.inf)]
    generator = torch.Generator().manual_seed(0)
    anything = torch.randint(-(2**31), 2**31, (100_000,), generator=generator, dtype=torch.int32).view(torch.float32)
    x = torch.cat([patterns(dtype).float(), ties, *beside, anything])
    rounded = torch.from_numpy(through(folder, x, dtype, widen=False).numpy().astype(np.uint16)).view(dtype)
    torch.testing.assert_close(rounded.float(), x.to(dtype).float(), rtol=0, atol=0, equal_nan=True)
    signs = ~x.isnan()
    assert torch.equal(torch.signbit(rounded)[signs], torch.signbit(x)[signs])
