"""Denormal numbers, out of the way while a model computes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Counts denormals as zero inside the block, and restores the caller's arithmetic after it.

    Averaged weights that decay to denormals would make a CPU many times slower.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
