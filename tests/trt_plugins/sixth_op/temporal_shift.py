"""Step 1 of trt_plugins/README.md: ``sixth::temporal_shift``, the shift of TSM (arXiv 1811.08383, section 3.2).

Of each frame's channels, the first ``fold`` come from the next frame and as many more from the one before; the rest
stay. Beyond the ends of the clip there are zeros.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def temporal_shift_reference(x: Tensor, fold: int) -> Tensor:
    """The op in plain PyTorch; see `temporal_shift`."""
    later, earlier, same = x.split([fold, fold, x.shape[2] - 2 * fold], dim=2)
    return torch.cat([F.pad(later[:, 1:], (0, 0, 0, 1)), F.pad(earlier[:, :-1], (0, 0, 1, 0)), same], dim=2)


@torch.library.custom_op("sixth::temporal_shift", mutates_args=())
def temporal_shift(x: Tensor, fold: int) -> Tensor:
    """Frames (B, T, C) of any floating dtype, with ``2 * fold <= C`` of their channels taken from their neighbours.

    Raises:
        ValueError: ``fold`` or the shape does not fit.
    """
    _check(x, fold)
    return temporal_shift_reference(x, fold)


@temporal_shift.register_fake
def _(x: Tensor, fold: int) -> Tensor:
    _check(x, fold)
    return torch.empty_like(x)


def _check(x: Tensor, fold: int) -> None:
    if x.ndim != 3 or not 0 <= 2 * fold <= x.shape[2]:
        raise ValueError(
            f"temporal_shift moves at most half of the channels of (B, T, C), got {tuple(x.shape)}, {fold}"
        )
