"""The likeliest classes, beside a plain stable sort of all of them."""

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serve.classify import likeliest

# Few values, so that there are ties, and all of float32 that a softmax gives.
FEW = st.sampled_from([0.0, 0.25, 0.5, 1.0])
ANY = st.floats(0, 1, width=32)


@given(arrays.arrays(np.float32, st.integers(1, 40), elements=FEW | ANY), st.integers(1, 45))
def test_they_are_those_of_a_stable_sort(probabilities: npt.NDArray[np.float32], top_k: int) -> None:
    order = sorted(range(len(probabilities)), key=lambda index: -probabilities[index])[:top_k]
    assert likeliest(probabilities, top_k) == [(index, float(probabilities[index])) for index in order]
