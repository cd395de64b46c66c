"""The part of skipvit-evaluate that needs torch and matplotlib."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from skipvit import metrics as m
from skipvit.checkpoints import CheckpointError, load_model
from skipvit.publishing import write_atomically as write
from train.charts import confusion_chart, reliability_chart
from train.denormals import flushed_denormals
from train.distributed import StrategyError, processes
from train.pictures import DataError, open_data
from train.predict import predict

__all__ = ["EXPECTED", "Figures", "draw", "measure", "write"]

EXPECTED = (CheckpointError, DataError, StrategyError)


@dataclass(frozen=True)
class Figures:
    """What the charts show."""

    confusion: m.Counts
    reliability: m.Reliability
    labels: tuple[str, ...]
    title: str


def measure(
    checkpoint: Path, uri: str | None, batch: int, workers: int, device: Literal["auto", "cpu", "cuda"]
) -> tuple[dict[str, Any], Figures]:
    """Evaluates a checkpoint on the held-out pictures of ``uri``, or of what it was trained on.

    Raises:
        EXPECTED: the checkpoint or the data cannot be used, or their classes differ.
    """
    model, description = load_model(checkpoint)
    data = open_data(uri or _trained_on(description.recipe, checkpoint))
    if data.classes != description.labels:
        raise DataError(
            f"{data.uri} has {len(data.classes)} classes ({', '.join(data.classes[:3])} ...), {checkpoint} knows "
            f"{len(description.labels)} ({', '.join(description.labels[:3])} ...); give data with the same classes"
        )
    with flushed_denormals(), processes(device) as process:
        model.to(process.device)
        probabilities, labels = predict(
            model, data.held_out, description.classifier_preprocessing, process, batch, workers
        )
    confusion = m.confusion_matrix(labels, probabilities.argmax(axis=1), len(data.classes))
    report = {
        "checkpoint": str(checkpoint),
        "architecture": description.architecture,
        "dataset": data.held_out_name,
        "images": len(labels),
        "metrics": m.classification_metrics(probabilities, labels),
        "per_class": _per_class(confusion, data.classes),
        "top_confusions": _top_confusions(confusion, data.classes),
    }
    reliability = m.reliability(probabilities, labels)
    return report, Figures(confusion, reliability, data.classes, f"{description.architecture} on {data.held_out_name}")


def _trained_on(recipe: dict[str, Any], checkpoint: Path) -> str:
    uri = (recipe.get("data") or {}).get("uri")
    if not isinstance(uri, str):
        raise DataError(f"{checkpoint} does not say what it was trained on; give --data")
    return uri


def draw(out: Path, figures: Figures) -> None:
    """Writes confusion.png and reliability.png."""
    confusion_chart(out / "confusion.png", figures.confusion, figures.labels, figures.title)
    reliability_chart(out / "reliability.png", figures.reliability, figures.title)


def _per_class(confusion: m.Counts, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    accuracy, support = m.per_class_accuracy(confusion), confusion.sum(axis=1)
    return [
        {"label": label, "support": int(n), "accuracy": None if n == 0 else float(share)}
        for label, n, share in zip(labels, support, accuracy, strict=True)
    ]


def _top_confusions(confusion: m.Counts, labels: tuple[str, ...], most: int = 20) -> list[dict[str, Any]]:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = [(*np.unravel_index(cell, wrong.shape), int(wrong.flat[cell])) for cell in order]
    return [{"true": labels[i], "predicted": labels[j], "count": count} for i, j, count in cells if count]
