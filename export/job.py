"""What a task tells the common flow of export/entry.py: tensors, graph, comparison, and its part of the manifest."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import nn

from skipvit.manifest import Evaluation, Parity, Task, Tensor, Tiling
from skipvit.transforms import Preprocessing

Precision = Literal["fp32", "fp16", "int8"]
# What a graph computes in, one in int8 between its quantised layers.
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.float32}


class Job(ABC):
    """A model about to be exported. Making one checks all that can be checked before anything is written.

    ``labels_text`` is what labels.txt will hold, None where the task has none. ``max_batch`` bounds the batches that
    Triton makes.
    """

    task: Task
    model: nn.Module
    architecture: str
    weights_from: str
    evaluation: Evaluation | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    preprocessing: Preprocessing | None = None
    tiling: Tiling | None = None
    labels_text: str | None = None
    max_batch: int = 64

    @abstractmethod
    def graph(self, precision: Precision, opset: int) -> onnx.ModelProto:
        """The graph to deploy, with ``inputs`` and ``outputs``."""

    @abstractmethod
    def compare(self, path: Path, precision: Precision) -> Parity:
        """Runs a written file against the PyTorch model.

        Raises:
            ParityError: it strays further than the precision allows.
            ValueError: the model gives something that this task does not know.
        """

    @abstractmethod
    def example(self) -> torch.Tensor:
        """An input of ``model`` itself, batch 1 and float32, on which multiply-accumulates are counted."""

    def write_samples(self, folder: Path) -> tuple[str, ...]:
        """Writes the pictures that a page may offer beside the model; returns their file names."""
        return ()
