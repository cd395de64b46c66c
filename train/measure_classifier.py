"""skipvit-evaluate of a classifier: its errors, and whether its confidence can be believed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skipvit import metrics as m
from skipvit.checkpoints import load_model
from train.charts import confusion_chart, reliability_chart
from train.distributed import processes
from train.evaluation import Options, trained_on
from train.pictures import DataError, open_data
from train.predict import predict


@dataclass(frozen=True)
class ClassifierReport:
    """``content`` is what evaluation.json holds; the rest is what the charts show."""

    content: dict[str, Any]
    confusion: m.Counts
    reliability: m.Reliability
    labels: tuple[str, ...]

    def draw(self, out: Path) -> None:
        """Writes confusion.png and reliability.png."""
        title = f"{self.content['architecture']} on {self.content['dataset']}"
        confusion_chart(out / "confusion.png", self.confusion, self.labels, title)
        reliability_chart(out / "reliability.png", self.reliability, title)

    def table(self) -> list[str]:
        """Metrics, the accuracy of each class or of the ten worst, and what is confused most."""
        content = self.content
        lines = [f"{content['architecture']} on {content['dataset']}"]
        for name, value in content["metrics"].items():
            lines.append(f"  {name:<6} {value:.2%}" if name.startswith("top") else f"  {name:<6} {value:.4f}")
        rows = sorted(content["per_class"], key=lambda row: 2.0 if row["accuracy"] is None else row["accuracy"])
        shown = rows if len(rows) <= 20 else rows[:10]
        lines.append(
            f"  {'class':<24} {'pictures':>8} {'accuracy':>9}" + ("" if shown == rows else "   (the ten worst)")
        )
        for row in shown:
            accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
            lines.append(f"  {row['label'][:24]:<24} {row['support']:>8} {accuracy:>9}")
        for confusion in content["top_confusions"][:5]:
            lines.append(f"  {confusion['count']} x {confusion['true']} taken for {confusion['predicted']}")
        return lines

    def summary(self) -> dict[str, Any]:
        """What the last line of the program's output says, beside the checkpoint."""
        return {"dataset": self.content["dataset"], **self.content["metrics"]}


def measure_classifier(checkpoint: Path, options: Options) -> ClassifierReport:
    """Evaluates a classifier on the held-out pictures of the data asked for, or of what it was trained on.

    Raises:
        CheckpointError, DataError, StrategyError: the checkpoint or the data cannot be used, or their classes differ.
    """
    model, description = load_model(checkpoint)
    preprocessing = description.classifier_preprocessing
    data = open_data(options.data or trained_on(description.recipe, checkpoint))
    if data.classes != description.labels:
        raise DataError(
            f"{data.uri} has {len(data.classes)} classes ({', '.join(data.classes[:3])} ...), {checkpoint} knows "
            f"{len(description.labels)} ({', '.join(description.labels[:3])} ...); give data with the same classes"
        )
    with processes(options.device) as process:
        model.to(process.device)
        probabilities, labels = predict(model, data.held_out, preprocessing, process, options.batch, options.workers)
    confusion = m.confusion_matrix(labels, probabilities.argmax(axis=1), len(data.classes))
    content = {
        "checkpoint": str(checkpoint),
        "architecture": description.architecture,
        "dataset": data.held_out_name,
        "images": len(labels),
        "metrics": m.classification_metrics(probabilities, labels),
        "per_class": _per_class(confusion, data.classes),
        "top_confusions": _top_confusions(confusion, data.classes),
    }
    return ClassifierReport(content, confusion, m.reliability(probabilities, labels), data.classes)


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
