"""The part of skipvit-train that needs torch: recipe in, checkpoint out."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skipvit.checkpoints import Checkpoint, save_checkpoint
from skipvit.manifest import Evaluation
from skipvit.provenance import commit, versions_of
from skipvit.publishing import write_atomically
from skipvit.transforms import Pixels, Preprocessing, stack
from train import build
from train.denormals import flushed_denormals
from train.distributed import StrategyError, processes
from train.loop import Trained, TrainingError, fit
from train.pictures import DataError, Dataset, Labels, Pictures, open_data
from train.recipe import Recipe, RecipeError
from train.resume import ResumeError
from train.run import RECIPE
from train.training import Training

EXPECTED = (RecipeError, DataError, StrategyError, ResumeError, TrainingError)
# Pictures that export compares engines on; a few hundred tiny ones, or a few dozen large ones.
_MANY, _FEW, _TINY = 512, 64, 64


def train(recipe: Recipe, out: Path, resuming: bool) -> int:
    """Carries a recipe through to a checkpoint in ``out``; returns the exit status.

    Raises:
        EXPECTED: anything the user can mend.
    """
    torch.set_float32_matmul_precision("high")
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    wall, cpu = time.perf_counter(), time.process_time()
    with flushed_denormals(), processes(recipe.run.device) as process:
        data = open_data(recipe.data.uri)
        training = Training.of(recipe, data, process)
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
        checkpoint = describe(recipe, data, trained)
        preprocessing = checkpoint.classifier_preprocessing
        save_checkpoint(out, trained.weights, checkpoint, samples(data.held_out, preprocessing))
    report(out, checkpoint, time.perf_counter() - wall, time.process_time() - cpu)
    return 0


def describe(recipe: Recipe, data: Dataset, trained: Trained) -> Checkpoint:
    """The JSON beside the weights."""
    return Checkpoint(
        architecture=recipe.model.name,
        model_args=dict(build.model_args(recipe, len(data.classes))),
        labels=data.classes,
        preprocessing=build.preprocessing_of(recipe.data),
        recipe=recipe.model_dump(mode="json"),
        evaluation=Evaluation(dataset=data.held_out_name, images=len(data.held_out.labels), metrics=trained.metrics),
        epochs=trained.epochs,
        versions=versions_of(("torch", "timm", "torchvision", "safetensors", "numpy", "pillow", "scikit-learn")),
        commit=commit(),
    )


def samples(pictures: Pictures, preprocessing: Preprocessing) -> tuple[Pixels, Labels]:
    """Evaluation pictures (B, H, W, 3) and their labels: all of a small set of tiny ones, or some, evenly spaced."""
    n = len(pictures.labels)
    count = min(n, _MANY if preprocessing.height <= _TINY else _FEW)
    chosen = np.linspace(0, n - 1, count).round().astype(np.int64)
    pixels = stack([preprocessing(pictures.open(int(index))) for index in chosen])
    return pixels, np.asarray(pictures.labels[chosen], dtype=np.int64)


def report(out: Path, checkpoint: Checkpoint, wall: float, cpu: float) -> None:
    """A table for people, then one line of JSON."""
    assert checkpoint.evaluation is not None
    metrics = checkpoint.evaluation.metrics
    print(f"\n{checkpoint.architecture} after {checkpoint.epochs} epochs, on {checkpoint.evaluation.dataset}")
    for name, value in metrics.items():
        print(f"  {name:<6} {value:.2%}" if name.startswith("top") else f"  {name:<6} {value:.4f}")
    print(f"  {wall:.0f} s, {cpu:.0f} s of CPU\ncheckpoint: {out}")
    line: dict[str, Any] = {"checkpoint": str(out), **metrics, "seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}
    print(json.dumps(line))
