"""The learning rate against its closed form."""

import math

import pytest

from train.schedule import learning_rate


def test_warm_up_is_a_straight_line_that_ends_at_the_peak() -> None:
    rates = [learning_rate(step, 100, 1.0, warmup_steps=10, warmup_lr=0.1) for step in range(10)]
    assert rates == pytest.approx([0.19, 0.28, 0.37, 0.46, 0.55, 0.64, 0.73, 0.82, 0.91, 1.0])


def test_cosine_starts_at_the_peak_and_falls_to_the_floor() -> None:
    def rate(step: int) -> float:
        return learning_rate(step, 110, 2.0, warmup_steps=10, min_lr=0.5)

    assert rate(10) == 2.0
    assert rate(60) == pytest.approx((2.0 + 0.5) / 2)
    assert rate(35) == pytest.approx(0.5 + 1.5 * (1 + math.cos(math.pi / 4)) / 2)
    assert rate(110) == pytest.approx(0.5)
    assert all(rate(step) > rate(step + 1) for step in range(10, 110))


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert learning_rate(0, 10, 3.0) == 3.0
