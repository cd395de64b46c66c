"""kernels/token_dwconv_gelu.cu, run on the host, against the op's reference in float64."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipvit.ops import token_dwconv_gelu_reference
from tests.trt_plugins.host_kernels import DTYPES, ROUNDING, error_over_scale, on_the_host
from trt_plugins.operators.token_dwconv_gelu import OP
from trt_plugins.plugin_op import SCALARS, Scalar, Shapes

KERNEL_SIZES: dict[Scalar, list[int]] = {"f32": [3, 9], "f16": [1, 5], "bf16": [1, 7]}  # one build each


def inputs(scalar: Scalar, shape: tuple[int, int, int, int], r: int) -> list[Tensor]:
    """Tokens of a mean far from zero, so that a border read as anything but zeros shows."""
    generator = torch.Generator().manual_seed(sum(shape) + r)
    channels = shape[3]
    x = torch.randn(shape, generator=generator) + 1
    weight = torch.randn(channels, 1, r, r, generator=generator) / r
    bias = torch.randn(channels, generator=generator)
    return [tensor.to(DTYPES[scalar]) for tensor in (x, weight, bias)]


def check(scalar: Scalar, shape: tuple[int, int, int, int], r: int) -> None:
    tensors = inputs(scalar, shape, r)
    found = on_the_host(OP, scalar, tensors, {"channels": shape[3]})
    assert error_over_scale(found, token_dwconv_gelu_reference(*(t.double() for t in tensors))) <= ROUNDING[scalar]


@pytest.mark.parametrize(("scalar", "r"), [(scalar, r) for scalar in SCALARS for r in KERNEL_SIZES[scalar]])
def test_any_shape(scalar: Scalar, r: int) -> None:
    @settings(max_examples=10, deadline=None)
    @given(
        batch=st.integers(1, 2),
        height=st.integers(1, 20),
        width=st.integers(1, 36),
        channels=st.one_of(st.integers(1, 70), st.integers(1, 9).map(lambda n: 8 * n)),
    )
    @example(batch=1, height=17, width=17, channels=72)
    @example(batch=2, height=1, width=1, channels=1)
    def run(batch: int, height: int, width: int, channels: int) -> None:
        check(scalar, (batch, height, width, channels), r)

    run()


def gelu_alone(x: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """What the kernel makes of ``x`` where the convolution changes nothing, and the exact value of GELU, in float64."""
    (scalar,) = (scalar for scalar, dtype in DTYPES.items() if dtype == x.dtype)
    weight = torch.zeros(8, 1, r, r, dtype=x.dtype)
    weight[:, :, r // 2, r // 2] = 1
    found = on_the_host(OP, scalar, [x.reshape(1, 64, -1, 8), weight, torch.zeros(8, dtype=x.dtype)])
    return found.flatten().double(), x.double() * torch.special.erfc(x.double() / -(2**0.5)) / 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gelu_of_every_16_bit_number(dtype: torch.dtype) -> None:
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = patterns.where(patterns.isfinite() & (patterns > -13), 0)  # below, exp(-x²/2) is a float32 no more
    found, exact = gelu_alone(x, r=1)
    # Half a unit in the last place of a number of that size, and a relative 4e-5 of our own.
    half_unit = torch.finfo(dtype).eps / 2 * 2 ** exact.abs().clamp(min=torch.finfo(dtype).tiny).log2().floor()
    assert ((found - exact).abs() <= 1.0001 * half_unit + 4e-5 * exact.abs()).all()


def test_gelu_of_float32() -> None:
    found, exact = gelu_alone(torch.linspace(-12, 12, 2**16), r=3)
    assert ((found - exact).abs() <= 2.5e-7 * exact.abs().clamp(min=1)).all()
    assert ((found - exact).abs() <= 2e-5 * exact.abs()).all()  # in the tail, too
    huge = torch.tensor([-3e38, -1e20, 1e20, 3e38]).repeat(128)
    assert torch.equal(gelu_alone(huge, r=3)[0], huge.double().clamp(min=0))


def test_what_is_not_finite_shows_and_stays_near() -> None:
    shape = (1, 20, 20, 72)
    x, weight, bias = inputs("f16", shape, 5)
    x[0, 10, 9, 3], x[0, 2, 2, 70] = torch.nan, torch.inf
    found = on_the_host(OP, "f16", [x, weight, bias])
    expected = token_dwconv_gelu_reference(x.double(), weight.double(), bias.double())
    assert not found[~expected.isfinite()].isfinite().any()
    near = torch.zeros(shape, dtype=torch.bool)
    near[0, 8:13, 7:12, :8] = near[0, :5, :5, 64:] = True
    assert found[~near].isfinite().all()


def test_without_tensor_cores_only_its_own_channel() -> None:
    x, weight, bias = inputs("f32", (1, 5, 5, 6), 3)
    weight = weight.abs()  # no -inf, of which GELU is NaN
    expected = token_dwconv_gelu_reference(x, weight, bias)
    x[0, 2, 2, 1], x[0, 4, 4, 0] = torch.inf, torch.nan
    expected[0, 1:4, 1:4, 1], expected[0, 3:, 3:, 0] = torch.inf, torch.nan
    torch.testing.assert_close(on_the_host(OP, "f32", [x, weight, bias]), expected, equal_nan=True)


@pytest.mark.parametrize(
    ("weight", "bias", "sentence"),
    [
        ((8, 1, 4, 4), (8,), r"r odd, at most 9 and fixed in the graph; it got \(8, 1, 4, 4\)"),
        ((8, 1, 11, 11), (8,), "r odd, at most 9"),
        ((8, 1, 3, 5), (8,), "r odd, at most 9"),
        ((8, 2, 3, 3), (8,), "r odd, at most 9"),
        ((7, 1, 3, 3), (8,), "8 channels, a weight for 7 and a bias for 8"),
        ((8, 1, 3, 3), (9,), "8 channels, a weight for 8 and a bias for 9"),
    ],
)
def test_weights_that_the_kernel_cannot_take_are_refused(
    weight: tuple[int, ...], bias: tuple[int, ...], sentence: str
) -> None:
    shapes: Shapes = [(2, 4, 4, 8), weight, bias]
    for use in (OP.launch, OP.constants):
        with pytest.raises(ValueError, match=sentence):
            use(shapes, {"channels": 8})


@given(batch=st.integers(1, 300), height=st.integers(1, 300), width=st.integers(1, 300), channels=st.integers(1, 4000))
@example(batch=256, height=256, width=256, channels=3072)
@example(batch=1, height=14, width=14, channels=768)
def test_blocks_hold_all_rows_once(batch: int, height: int, width: int, channels: int) -> None:
    launch = OP.launch([(batch, height, width, channels), (channels, 1, 5, 5), (channels,)], {})
    rows = launch.numbers[-1]
    down = -(-height // rows)
    columns = batch * -(-width // 16) * -(-channels // 64)
    assert launch.grid == (columns * down, 1, 1)
    assert launch.grid[0] < 2**31
    assert 1 <= rows <= 32
    assert (down - 1) * rows < height  # no block without rows
    assert launch.grid[0] >= min(264, columns * height) / 2
