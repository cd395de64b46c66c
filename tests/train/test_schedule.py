"""The learning rate and the guide's λ against their closed forms."""

import math

import pytest

from train.schedule import guide_strength, learning_rate


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


def test_guide_rises_over_its_share_and_is_exactly_one_after_it() -> None:
    linear = [guide_strength(step, 20, 0.5, "linear") for step in range(20)]
    assert linear == [*(step / 10 for step in range(10)), *[1.0] * 10]
    cosine = [guide_strength(step, 8, 0.5, "cosine") for step in range(8)]
    root = math.sqrt(0.5)
    assert cosine[:4] == pytest.approx([0.0, (1 - root) / 2, 0.5, (1 + root) / 2])
    assert cosine[4:] == [1.0] * 4


@pytest.mark.parametrize("ramp", [0.1, 0.3, 0.7, 1e-9])
@pytest.mark.parametrize("total", [3, 10, 49])
def test_guide_is_one_from_the_rounded_share_on(ramp: float, total: int) -> None:
    for shape in ("linear", "cosine"):
        found = [guide_strength(step, total, ramp, shape) for step in range(total + 1)]
        assert found.index(1.0) == max(1, round(ramp * total))
        assert found == sorted(found)
        assert found[0] == 0.0
