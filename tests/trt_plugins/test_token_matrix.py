"""Tiles of the kernels that multiply a matrix with token-major values: which are chosen, and that all of them work."""

import pytest
import torch

from skipvit.ops import static_attention_reference
from tests.trt_plugins.host_kernels import DTYPES, ROUNDING, error_over_scale, on_the_host
from trt_plugins import cubins
from trt_plugins.operators import static_attention, token_matrix
from trt_plugins.operators.token_matrix import Tiles, tiles
from trt_plugins.plugin_op import SCALARS, Scalar
from trt_plugins.symbols import Symbol


def test_tiles_go_by_the_matrix() -> None:
    assert tiles(197, 197, 2) == Tiles(8, 2, shifted=True)
    assert tiles(198, 198, 2) == Tiles(8, 2, shifted=False)
    assert tiles(49, 196, 2) == Tiles(2, 2, shifted=False)


def test_unknown_dims_get_tiles_that_fit_any() -> None:
    unknown = Symbol("n", lambda operation, left, right: "")
    assert tiles(unknown, unknown, 1) == Tiles(8, 1, shifted=True)
    assert tiles(unknown, 196, 1) == Tiles(8, 1, shifted=False)


def test_blocks_cover_the_output() -> None:
    assert tiles(785, 785, 2).blocks(785, 3 * 64) == 4 * 2  # tiles of 256 x 128
    assert tiles(49, 196, 2).blocks(49, 384) == 3  # of 64 x 128


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("tokens", [36, 38, 264])
def test_tiles_for_any_count_take_even_ones(scalar: Scalar, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_matrix, "tiles", lambda rows, columns, column_warps: Tiles(8, column_warps, True))
    v = torch.randn(2, tokens, 48).to(DTYPES[scalar])
    matrix = torch.randn(2, tokens, tokens).div(tokens**0.5).to(DTYPES[scalar])
    y = on_the_host(static_attention.OP, scalar, [v, matrix], {"num_heads": 2})
    assert error_over_scale(y, static_attention_reference(v.double(), matrix.double())) <= ROUNDING[scalar]


@pytest.mark.parametrize("chosen", [Tiles(8, 2, shifted=False), Tiles(8, 1, shifted=False), Tiles(2, 1, shifted=False)])
@pytest.mark.parametrize("architecture", [75, 90])
def test_tiles_that_no_usual_shape_has_compile(chosen: Tiles, architecture: int) -> None:
    for scalar in ("f32", "f16"):
        assert cubins.cubin(static_attention.OP, scalar, architecture, chosen.constants).startswith(b"\x7fELF")
