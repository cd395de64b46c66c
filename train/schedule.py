"""What moves at every step: the learning rate, by a linear warm-up and half a cosine, and the guide's λ."""

import math
from typing import Literal


def learning_rate(
    step: int, total: int, lr: float, warmup_steps: int = 0, warmup_lr: float = 0.0, min_lr: float = 0.0
) -> float:
    """Rate of ``step``, counted from 0, of ``total`` steps.

    The warm-up reaches ``lr`` in its last step; the cosine starts there and would reach ``min_lr`` at step ``total``.

    Differences from DeiT: its rate moves once per epoch, this one at every step.
    """
    if step < warmup_steps:
        return warmup_lr + (lr - warmup_lr) * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total - warmup_steps)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * done))


def guide_strength(step: int, total: int, ramp: float, shape: Literal["linear", "cosine"]) -> float:
    """λ of ``step``, counted from 0: it rises from 0, and is exactly 1 once the share ``ramp`` of all steps is done."""
    done = min(1.0, step / max(1, round(ramp * total)))
    return done if shape == "linear" else 0.5 * (1 - math.cos(math.pi * done))
