"""Classifiers: uint8 pictures of one size in, logits and probabilities out, compared by logits."""

from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image

from export.deploy import DeployClassifier
from export.graph import INPUT, LOGITS, PROBABILITIES, to_graph
from export.job import DTYPES, Job, Precision
from export.measures import Floats
from export.parity import compare, torch_logits
from export.pictures import COMPARED, pictures_for, pictures_for_int8
from export.quantisation import Int8, quantise
from skipvit.manifest import Parity, Tensor
from skipvit.origin import Origin, check_labels

_MAX_COMPARED = 16


class ClassificationJob(Job):
    """A classifier, its labels, and the pictures to compare on.

    Args:
        labels: one for each class.
        images: folder of pictures to compare on instead of the checkpoint's.
        int8: what was decided about it, None if it is not asked for.

    Raises:
        OriginError: the labels cannot be used, or the pictures cannot be read.
        ValueError: the model has no classes.
    """

    task = "classification"

    def __init__(self, origin: Origin, labels: tuple[str, ...], images: Path | None, int8: Int8 | None = None) -> None:
        self.model, self.architecture = origin.model, origin.architecture
        self.weights_from, self.evaluation = origin.weights_from, origin.evaluation
        self._preprocessing = self.preprocessing = origin.preprocessing
        classes = int(getattr(origin.model, "num_classes", len(labels)))
        if classes < 1:
            raise ValueError(
                f"{origin.architecture} has no classifier head, only features; "
                "give --model-arg num_classes=N, and --weights of a model that has one"
            )
        check_labels(labels, classes)
        self.labels_text = "".join(f"{label}\n" for label in labels)
        size = (self._preprocessing.height, self._preprocessing.width)
        self.inputs = (Tensor(name=INPUT, dtype="uint8", shape=("batch", *size, 3)),)
        self.outputs = tuple(
            Tensor(name=name, dtype="float32", shape=("batch", classes)) for name in (LOGITS, PROBABILITIES)
        )
        self._classes = classes
        self._samples = origin.samples
        self._int8 = int8 or Int8()
        if int8 is None:
            self._pictures = pictures_for(origin.preprocessing, origin.samples, images)
        else:
            self._calibrating, self._pictures = pictures_for_int8(
                origin.preprocessing, origin.samples, images, int8.calibration
            )

    def graph(self, precision: Precision, opset: int) -> onnx.ModelProto:
        deployable = DeployClassifier(self.model, self._preprocessing, DTYPES[precision])
        graph = to_graph(deployable, self._preprocessing.height, self._preprocessing.width, opset)
        return quantise(graph, self._calibrating, self._int8.full_range) if precision == "int8" else graph

    def compare(self, path: Path, precision: Precision) -> Parity:
        return compare(self._reference, path, precision, self._pictures, self._int8.min_agreement)

    def example(self) -> torch.Tensor:
        return torch.zeros(1, 3, self._preprocessing.height, self._preprocessing.width)

    def write_samples(self, folder: Path) -> tuple[str, ...]:
        """Keeps a few of the checkpoint's pictures for engines to be compared on; a page does not offer them."""
        if self._samples is not None:
            pixels = self._samples.images
            chosen = np.linspace(0, len(pixels) - 1, min(_MAX_COMPARED, len(pixels)), dtype=int)
            for number, index in enumerate(chosen):
                Image.fromarray(pixels[index]).save(folder / f"{COMPARED}{number:02}.png", optimize=True)
        return ()

    @cached_property
    def _reference(self) -> Floats:
        reference = torch_logits(self.model, self._preprocessing, self._pictures.images)
        if reference.ndim != 2 or reference.shape[1] != self._classes:
            raise ValueError(
                f"{self.architecture} gives an output of shape {reference.shape} for {self._classes} labels; "
                "only classifiers that give (B, num_classes) can be exported"
            )
        return reference
