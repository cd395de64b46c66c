"""kernels/eca_gate.cu, run on the host, against the op's reference in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipvit.ops import eca_gate_reference
from tests.trt_plugins.host_kernels import DTYPES, ROUNDING, error_over_scale, on_the_host
from trt_plugins.operators.eca_gate import OP
from trt_plugins.plugin_op import SCALARS, Scalar


def check(scalar: Scalar, batch: int, tokens: int, channels: int, taps: int) -> None:
    generator = torch.Generator().manual_seed(batch * 7919 + tokens)
    x = torch.randn(batch, tokens, channels, generator=generator).to(DTYPES[scalar])
    weight = torch.randn(1, 1, taps, generator=generator).to(DTYPES[scalar])
    gate = on_the_host(OP, scalar, [x, weight])
    assert error_over_scale(gate, eca_gate_reference(x.double(), weight.double())) <= ROUNDING[scalar]


@settings(max_examples=25, deadline=None)
@given(
    scalar=st.sampled_from(SCALARS),
    batch=st.integers(1, 3),
    tokens=st.integers(1, 300),
    channels=st.one_of(st.integers(1, 300), st.integers(1, 50).map(lambda n: 8 * n)),
    taps=st.sampled_from([1, 3, 5, 9]),
)
def test_any_shape(scalar: Scalar, batch: int, tokens: int, channels: int, taps: int) -> None:
    check(scalar, batch, tokens, channels, taps)


@pytest.mark.parametrize("channels", [32, 33, 160])
def test_few_images_of_many_tokens(channels: int) -> None:
    check("f16", batch=1, tokens=5000, channels=channels, taps=3)


def test_many_images() -> None:
    check("f16", batch=140, tokens=3, channels=264, taps=5)  # slices of 96 channels


@pytest.mark.parametrize("scalar", SCALARS)
def test_vit_small(scalar: Scalar) -> None:
    check(scalar, batch=2, tokens=197, channels=384, taps=3)


@pytest.mark.parametrize("weight", [(1, 1, 4), (1, 1, 65), (1, 2, 3), (2, 1, 3)])
def test_a_weight_that_the_kernel_cannot_take_is_refused(weight: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="takes a weight of shape"):
        OP.launch([(1, 4, 8), weight], {})


@pytest.mark.parametrize(("batch", "tokens", "channels"), [(256, 197, 384), (1, 65536, 32), (1, 65536, 512), (1, 1, 1)])
def test_blocks_hold_all_channels_once(batch: int, tokens: int, channels: int) -> None:
    launch = OP.launch([(batch, tokens, channels), (1, 1, 3)], {})
    wide = launch.numbers[-1]
    slices = -(-channels // wide)
    assert launch.grid == (batch * slices, 1, 1)
    assert (slices - 1) * wide < channels
    assert wide % 16 == 0
    assert wide <= 128
