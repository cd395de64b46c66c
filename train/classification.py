"""Classification: a picture, one class. Cross entropy, and a teacher where the recipe names one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.checkpoints import Classes
from skipvit.metrics import classification_metrics
from skipvit.transforms import Pixels, Preprocessing, stack
from train import classification_build as build
from train.augment import RANDOM_NUMBERS
from train.batches import Order, TrainingPictures, glyph_numbers, load
from train.classification_recipe import Recipe
from train.distributed import Process
from train.pictures import Dataset, open_data
from train.predict import predict
from train.prepare import BatchTransform
from train.recipe import Recipe as AnyRecipe
from train.recipe import RecipeError
from train.task import Description, Place
from train.teacher import Distillation

# Pictures that export compares engines on; a few hundred tiny ones, or a few dozen large ones.
_MANY, _FEW, _TINY = 512, 64, 64


@dataclass(frozen=True)
class Classification:
    """See train/task.py for what a task is. ``parts`` are pictures (B, 3, H, W) uint8 and labels (B,)."""

    recipe: Recipe
    data: Dataset
    process: Process
    training_pictures: TrainingPictures
    transform: BatchTransform
    distillation: Distillation | None

    @property
    def pictures(self) -> int:
        return len(self.data.train.labels)

    @property
    def repeats(self) -> int:
        return self.recipe.data.repeats

    @property
    def preprocessing(self) -> Preprocessing:
        return build.preprocessing_of(self.recipe.data)

    def model_args(self) -> dict[str, Any]:
        return build.model_args(self.recipe, len(self.data.classes))

    def check_part(self, size: int) -> None:
        augment, run = self.recipe.augment, self.recipe.run
        if (augment.mixup or augment.cutmix) and size % 2:
            raise RecipeError(
                f"mixup and cutmix pair pictures: run.batch = {run.batch} over {self.process.world} processes and "
                f"run.accumulate {run.accumulate} gives parts of {size}, which must be even"
            )

    def some_pictures(self) -> Iterator[Tensor]:
        return build.some_pictures(self.recipe, self.data.train, self.process.device)

    def parts(self, order: Order) -> Iterator[tuple[Tensor, Tensor]]:
        pin = self.process.device.type == "cuda"
        return load(self.training_pictures, order, self.recipe.data.workers, pin=pin)

    def prepare(self, first: Tensor, second: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        run, device = self.recipe.run, self.process.device
        u = glyph_numbers(run.seed, place.step, run.batch, RANDOM_NUMBERS)[place.rows]
        ramp_steps = max(1.0, self.recipe.augment.ramp_epochs * place.steps_per_epoch)
        pixels, labels, u = (tensor.to(device, non_blocking=True) for tensor in (first, second, u))
        return self.transform(pixels, labels, u, min(1.0, (place.step + 1) / ramp_steps))

    def loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = F.cross_entropy(outputs.float(), targets)
        return loss if self.distillation is None else self.distillation(inputs, outputs.float(), loss)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        batch, workers = self.recipe.run.batch // self.process.world, self.recipe.data.workers
        found = predict(model, self.data.held_out, self.preprocessing, self.process, batch, workers)
        return classification_metrics(*found)

    def headline(self, metrics: dict[str, float]) -> str:
        return f"top-1 {metrics['top1']:6.2%}  nll {metrics['nll']:.3f}"

    def describe(self) -> Description:
        data = self.data
        n = len(data.held_out.labels)
        return Description("classification", data.held_out_name, n, data.classes, self.preprocessing)

    def samples(self) -> tuple[Pixels, Classes]:
        """All of a small set of tiny pictures, or some, evenly spaced."""
        pictures, preprocessing = self.data.held_out, self.preprocessing
        n = len(pictures.labels)
        count = min(n, _MANY if preprocessing.height <= _TINY else _FEW)
        chosen = np.linspace(0, n - 1, count).round().astype(np.int64)
        pixels = stack([preprocessing(pictures.open(int(index))) for index in chosen])
        return pixels, np.asarray(pictures.labels[chosen], dtype=np.int64)


def classification(recipe: AnyRecipe, process: Process) -> Classification:
    """The task of a classifier's recipe, its data and its teacher open.

    Raises:
        DataError, RecipeError: the data or the teacher cannot be used, or the recipe does not fit them.
    """
    assert isinstance(recipe, Recipe), "read_recipe gives the kind that the task asks for"
    data = open_data(recipe.data.uri)
    return Classification(
        recipe,
        data,
        process,
        build.training_pictures(recipe, data.train),
        build.batch_transform(recipe, len(data.classes)),
        build.distillation(recipe, data.classes, process.device),
    )
