"""Padding by reflection, against NumPy's."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from skipvit.layers.reflection import reflected


@given(height=st.integers(1, 20), width=st.integers(1, 20), multiple=st.integers(1, 16))
def test_is_numpys_reflection_at_the_bottom_and_the_right(height: int, width: int, multiple: int) -> None:
    x = torch.arange(2 * height * width).view(1, 2, height, width)
    y = reflected(x, multiple)
    below, right = (-side % multiple for side in (height, width))
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, below), (0, right)), mode="reflect")
    assert np.array_equal(y.numpy(), expected)


def test_touches_nothing_where_nothing_is_missing() -> None:
    x = torch.zeros(1, 3, 8, 16)
    assert reflected(x, 8) is x
