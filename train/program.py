"""The part of skipvit-train that needs torch: recipe in, checkpoint out."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import torch

from skipvit.checkpoints import Checkpoint, save_checkpoint
from skipvit.manifest import Evaluation
from skipvit.provenance import commit, versions_of
from skipvit.publishing import write_atomically
from train.denormals import flushed_denormals
from train.distributed import StrategyError, processes
from train.heap import keep_large_blocks
from train.loop import Trained, TrainingError, fit
from train.pictures import DataError
from train.recipe import Recipe, RecipeError
from train.resume import ResumeError
from train.run import RECIPE
from train.task import Task, open_task
from train.training import Training

EXPECTED = (RecipeError, DataError, StrategyError, ResumeError, TrainingError)


def train(recipe: Recipe, out: Path, resuming: bool) -> int:
    """Carries a recipe through to a checkpoint in ``out``; returns the exit status.

    Raises:
        EXPECTED: anything the user can mend.
    """
    torch.set_float32_matmul_precision("high")
    keep_large_blocks()
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    wall, cpu = time.perf_counter(), time.process_time()
    with flushed_denormals(), processes(recipe.run.device) as process:
        task = open_task(recipe, process)
        training = Training.of(recipe, task, process)
        if process.leads:  # not earlier: a recipe that cannot be trained leaves nothing behind
            out.mkdir(parents=True, exist_ok=True)
            write_atomically(out / RECIPE, json.dumps(recipe.model_dump(mode="json"), indent=2) + "\n")
            if training.started_from:
                print(training.started_from)
        process.barrier()
        trained = fit(training, out, resuming)
        if trained.stopped_by is not None:
            return 130 if trained.stopped_by == signal.SIGINT else 0  # 130 is what shells expect after Ctrl-C
        if not process.leads:
            return 0
        checkpoint = describe(recipe, task, trained)
        save_checkpoint(out, trained.weights, checkpoint, task.samples())
    report(out, checkpoint, time.perf_counter() - wall, time.process_time() - cpu)
    return 0


def describe(recipe: Recipe, task: Task, trained: Trained) -> Checkpoint:
    """The JSON beside the weights."""
    data = task.describe()
    packages = ("torch", "timm", "torchvision", "safetensors", "numpy", "pillow", "scikit-learn", "scikit-image")
    return Checkpoint(
        task=data.task,
        architecture=recipe.model.name,
        model_args=dict(task.model_args()),
        labels=data.labels,
        preprocessing=data.preprocessing,
        recipe=recipe.model_dump(mode="json"),
        evaluation=Evaluation(dataset=data.held_out, images=data.images, metrics=trained.metrics),
        epochs=trained.epochs,
        versions=versions_of(packages),
        commit=commit(),
    )


def report(out: Path, checkpoint: Checkpoint, wall: float, cpu: float) -> None:
    """A table for people, then one line of JSON."""
    assert checkpoint.evaluation is not None
    metrics = checkpoint.evaluation.metrics
    print(f"\n{checkpoint.architecture} after {checkpoint.epochs} epochs, on {checkpoint.evaluation.dataset}")
    for name, value in metrics.items():
        print(f"  {name:<10} {value:.2%}" if name.startswith("top") else f"  {name:<10} {value:.4f}")
    print(f"  {wall:.0f} s, {cpu:.0f} s of CPU\ncheckpoint: {out}")
    line: dict[str, Any] = {"checkpoint": str(out), **metrics, "seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}
    print(json.dumps(line))
