"""Accuracy of the demo's models at equal budget: the same recipe settings, several seeds, the same held-out digits."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from skipvit.checkpoints import read_checkpoint
from train.run import main as train

PACKAGES = ("torch", "timm", "scikit-learn", "numpy")
RECIPES = ("digits_vit", "digits_skipat")


def measure(seeds: list[int]) -> list[dict[str, object]]:
    """One row a seed and recipe: top-1 on the held-out digits, and what the training cost.

    Raises:
        RuntimeError: a training failed; its message is above.
    """
    with TemporaryDirectory() as scratch:
        return [_row(recipe, seed, Path(scratch) / f"{recipe}_{seed}") for seed in seeds for recipe in RECIPES]


def _row(recipe: str, seed: int, out: Path) -> dict[str, object]:
    cpu, wall = _cpu_seconds(), time.perf_counter()
    if train([recipe, "--out", str(out), "--set", f"run.seed={seed}"]) != 0:
        raise RuntimeError(f"training {recipe} with seed {seed} failed")
    cpu, wall = _cpu_seconds() - cpu, time.perf_counter() - wall
    checkpoint = read_checkpoint(out)
    if checkpoint.evaluation is None:
        raise RuntimeError(f"{recipe} left no evaluation")
    return {
        "recipe": recipe,
        "model": checkpoint.architecture,
        "seed": seed,
        "epochs": checkpoint.epochs,
        "held_out_images": checkpoint.evaluation.images,
        "top1_percent": round(100 * checkpoint.evaluation.metrics["top1"], 2),
        "train_cpu_s": round(cpu, 1),
        "train_wall_s": round(wall, 1),
    }


def _cpu_seconds() -> float:
    times = psutil.Process().cpu_times()
    return times.user + times.system + times.children_user + times.children_system
