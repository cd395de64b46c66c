"""What a conversion tells: a line per stage, a table at the end, and one line of JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skipvit.checkpoints import Checkpoint
from train.conversion import Stage

HEADER = (
    f"{'stage':<12} {'cosine':>7} {'agreement':>10} {'KL':>8} {'top-1':>8} "
    f"{'images/s':>10} {'original':>10} {'speed':>7}"
)


def row(stage: Stage) -> str:
    """A line under `HEADER`."""
    top1 = "-" if stage.top1 is None else f"{stage.top1:.2%}"
    return (
        f"{stage.name:<12} {stage.cosine:>7.4f} {stage.agreement:>10.2%} {stage.kl:>8.4f} {top1:>8} "
        f"{stage.images_per_s:>10.1f} {stage.original_images_per_s:>10.1f} {stage.speed_up:>6.2f}x"
    )


def report(out: Path, checkpoint: Checkpoint, stages: Sequence[Stage], wall: float, cpu: float) -> None:
    """A table for people, then one line of JSON."""
    print(f"\n{checkpoint.model_args['base']} under '{checkpoint.model_args['spec']}'")
    print("\n".join([HEADER, *map(row, stages)]))
    print(f"{wall:.0f} s, {cpu:.0f} s of CPU\ncheckpoint: {out}")
    last: dict[str, Any] = stages[-1].model_dump()
    line = {
        "checkpoint": str(out),
        "spec": checkpoint.model_args["spec"],
        **last,
        "speed_up": round(stages[-1].speed_up, 4),
        "original_top1": stages[0].top1,
        "steps": checkpoint.recipe["steps"],
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
    }
    print(json.dumps(line))
