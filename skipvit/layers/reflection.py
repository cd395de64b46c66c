"""Pictures of any size for networks that halve theirs a fixed number of times."""

import torch
from torch import Tensor


def reflected(x: Tensor, multiple: int) -> Tensor:
    """Pictures (B, c, H, W), continued at the bottom and the right until H and W are multiples of ``multiple``.

    What is added is the picture reflected at its edge, the edge itself not repeated, and as often as it takes: a side
    of 5 pixels goes on 0 1 2 3 4 3 2 1 0 1 2 ... A single pixel is repeated. Nothing is done where nothing is missing.
    """
    for axis in (2, 3):
        size = x.shape[axis]
        if missing := -size % multiple:
            period = max(1, 2 * (size - 1))
            steps = torch.arange(size + missing, device=x.device) % period
            x = x.index_select(axis, torch.minimum(steps, period - steps) if size > 1 else steps)
    return x
