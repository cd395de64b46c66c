"""Figures of merit of a classifier, from class probabilities. NumPy only; all arithmetic in float64.

n pictures, C classes: ``probabilities`` (n, C), rows summing to 1; ``labels`` (n,) integers in 0..C-1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.float64]
Labels = np.ndarray[Any, np.dtype[np.int64]]
Counts = npt.NDArray[np.int64]

ECE_BINS = 15


def softmax(logits: npt.ArrayLike) -> Probabilities:
    """Probabilities (n, C) of logits (n, C)."""
    shifted = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def top_k_accuracy(probabilities: Probabilities, labels: Labels, k: int = 1) -> float:
    """Share of pictures whose class is among the k most probable; of equal ones the lower index comes first."""
    _check(probabilities, labels)
    if k < 1:
        raise ValueError(f"top-k accuracy needs k >= 1, got {k}")
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    ahead = (probabilities > own).sum(axis=1)
    tied_before = ((probabilities == own) & (np.arange(probabilities.shape[1]) < labels[:, None])).sum(axis=1)
    return float(np.mean(ahead + tied_before < k))


def confusion_matrix(labels: Labels, predictions: Labels, num_classes: int) -> Counts:
    """Counts (C, C): row = true class, column = predicted class."""
    cells = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def per_class_accuracy(confusion: Counts) -> npt.NDArray[np.float64]:
    """Share of each class's pictures that were recognised (C,), NaN for a class without pictures."""
    support = confusion.sum(axis=1)
    right = np.diagonal(confusion).astype(np.float64)
    return np.divide(right, support, out=np.full(len(right), np.nan), where=support > 0)


def negative_log_likelihood(probabilities: Probabilities, labels: Labels) -> float:
    """Mean of -log p(true class), natural logarithm; a probability of 0 counts as the smallest double."""
    _check(probabilities, labels)
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean())


def brier_score(probabilities: Probabilities, labels: Labels) -> float:
    """Mean squared distance of the probabilities to the one-hot truth, summed over classes: 0 to 2."""
    _check(probabilities, labels)
    truth = np.zeros_like(probabilities)
    truth[np.arange(len(labels)), labels] = 1
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


@dataclass(frozen=True)
class Reliability:
    """Pictures by confidence, in equal bins of (0, 1]: how many, their mean confidence, how many of them were right.

    ``confidence`` and ``accuracy`` are NaN in empty bins.
    """

    edges: npt.NDArray[np.float64]
    counts: Counts
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]

    @property
    def ece(self) -> float:
        """Expected calibration error, sum over bins of |B|/n |accuracy(B) - confidence(B)|."""
        gaps = np.abs(self.accuracy - self.confidence) * self.counts
        return float(np.nansum(gaps) / self.counts.sum())


def reliability(probabilities: Probabilities, labels: Labels, bins: int = ECE_BINS) -> Reliability:
    """Bins pictures by the probability of their most probable class; a bin holds (lower edge, upper edge]."""
    _check(probabilities, labels)
    top = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, top, side="left") - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)

    def mean(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        sums = np.bincount(index, weights=values, minlength=bins)
        return np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0)

    return Reliability(edges, counts.astype(np.int64), mean(top), mean(right))


def classification_metrics(probabilities: Probabilities, labels: Labels) -> dict[str, float]:
    """The figures that a checkpoint and a manifest carry."""
    return {
        "top1": top_k_accuracy(probabilities, labels, 1),
        "top5": top_k_accuracy(probabilities, labels, 5),
        "nll": negative_log_likelihood(probabilities, labels),
        "brier": brier_score(probabilities, labels),
        "ece": reliability(probabilities, labels).ece,
    }


def _check(probabilities: Probabilities, labels: Labels) -> None:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"got probabilities {probabilities.shape} and labels {labels.shape}; they must be (n, C) and (n,), n >= 1"
        )
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}, but there are {probabilities.shape[1]} classes"
        )
