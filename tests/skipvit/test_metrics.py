"""Metrics against scikit-learn, and against their definitions written as loops."""

import numpy as np
import pytest
from sklearn import metrics as oracle

from skipvit.metrics import (
    brier_score,
    classification_metrics,
    confusion_matrix,
    negative_log_likelihood,
    per_class_accuracy,
    reliability,
    softmax,
    top_k_accuracy,
)


@pytest.fixture(params=[(200, 10, 0), (37, 3, 1), (500, 25, 2)], ids=str)
def predictions(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    n, classes, seed = request.param
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=n - classes)])
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += 1.5
    return softmax(logits), labels


def test_softmax_survives_large_logits() -> None:
    assert softmax([[1000.0, 1000.0, -1000.0]]).tolist() == [[0.5, 0.5, 0.0]]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_is_sklearns(predictions: tuple[np.ndarray, np.ndarray], k: int) -> None:
    probabilities, labels = predictions
    if k >= probabilities.shape[1]:
        assert top_k_accuracy(probabilities, labels, k) == 1.0
    else:
        expected = oracle.top_k_accuracy_score(labels, probabilities, k=k, labels=range(probabilities.shape[1]))
        assert top_k_accuracy(probabilities, labels, k) == pytest.approx(expected)


def test_ties_go_to_the_lower_index_as_in_argmax() -> None:
    even = np.full((4, 4), 0.25)
    labels = np.arange(4)
    assert [top_k_accuracy(even, labels, k) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]
    assert top_k_accuracy(even, labels, 1) == np.mean(even.argmax(axis=1) == labels)


def test_confusion_matrix_is_sklearns(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = predictions
    guesses, classes = probabilities.argmax(axis=1), probabilities.shape[1]
    found = confusion_matrix(labels, guesses, classes)
    assert (found == oracle.confusion_matrix(labels, guesses, labels=range(classes))).all()
    expected = oracle.recall_score(labels, guesses, average=None, labels=range(classes))
    np.testing.assert_allclose(per_class_accuracy(found), expected)


def test_a_class_without_pictures_has_no_accuracy() -> None:
    found = per_class_accuracy(confusion_matrix(np.array([0, 0, 2]), np.array([0, 1, 2]), 3))
    assert found[0] == 0.5
    assert np.isnan(found[1])
    assert found[2] == 1.0


def test_nll_is_sklearns(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = predictions
    expected = oracle.log_loss(labels, probabilities, labels=range(probabilities.shape[1]))
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(expected)


def test_nll_of_an_impossible_class_is_finite() -> None:
    assert 600 < negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])) < 800


def test_brier_is_its_definition(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = predictions
    expected = np.mean(
        [sum((p - (c == y)) ** 2 for c, p in enumerate(row)) for row, y in zip(probabilities, labels, strict=True)]
    )
    assert brier_score(probabilities, labels) == pytest.approx(expected)


def test_ece_is_its_definition(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = predictions
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = reliability(probabilities, labels)
    assert found.ece == pytest.approx(expected)
    assert found.counts.sum() == len(labels)


def test_confidence_one_is_in_the_last_bin() -> None:
    found = reliability(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0]))
    assert found.counts[-1] == 2
    assert found.accuracy[-1] == 0.5
    assert found.ece == pytest.approx(0.5)
    assert np.isnan(found.confidence[0])


def test_summary_has_all_figures(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    found = classification_metrics(*predictions)
    assert list(found) == ["top1", "top5", "nll", "brier", "ece"]
    assert found["top1"] == top_k_accuracy(*predictions)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.ones((2, 2)), np.array([0]), r"probabilities \(2, 2\) and labels \(1,\)"),
        (np.ones((0, 2)), np.zeros(0, int), "n >= 1"),
        (np.ones((1, 2)), np.array([2]), "labels go from 2 to 2, but there are 2 classes"),
        (np.ones((1, 2)), np.array([-1]), "labels go from -1"),
    ],
)
def test_misshapen_input_is_refused(probabilities: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        top_k_accuracy(probabilities, labels)


def test_k_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="k >= 1, got 0"):
        top_k_accuracy(np.ones((1, 2)), np.array([0]), 0)
