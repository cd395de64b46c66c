"""What a run learns: all that differs from one task to the next.

A task gives batches, a loss, figures of merit, and what a checkpoint says of its data. The loop, a run's state and its
journal know none. The recipe's top-level key ``task`` chooses it; each has a file and a kind of recipe of its own:

    classification    train/classification.py    train/classification_recipe.py
    denoising         train/denoising.py         train/denoising_recipe.py
    video-denoising   train/video_denoising.py   train/video_denoising_recipe.py
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from skipvit.checkpoints import Classes, CleanSamples
from skipvit.manifest import Task as TaskName
from skipvit.transforms import Pixels, Preprocessing
from train.batches import Order
from train.distributed import Process
from train.recipe import Recipe, RecipeError


@dataclass(frozen=True)
class Place:
    """Where one part of a batch stands: ``rows`` of the whole batch of ``step``, counted from 0."""

    step: int
    steps_per_epoch: int
    rows: slice


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of task and data; ``held_out`` are the ``images`` that the metrics were measured on."""

    task: TaskName
    held_out: str
    images: int
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None


class Task(Protocol):
    """Built from a recipe and the process that it runs in; writes nothing."""

    @property
    def pictures(self) -> int:
        """Training pictures of an epoch, which the order of batches counts."""
        ...

    @property
    def repeats(self) -> int:
        """Views of one picture in an epoch, one after the other."""
        ...

    def model_args(self) -> dict[str, Any]:
        """Keyword arguments that make the recipe's model fit its data.

        Raises:
            RecipeError: the recipe has some that the data decide.
        """
        ...

    def check_part(self, size: int) -> None:
        """Asks whether a batch can come in parts of ``size`` pictures.

        Raises:
            RecipeError: it cannot.
        """
        ...

    def some_pictures(self) -> Iterator[Tensor]:
        """Some training pictures as evaluation would see them: batches of a model's input, on the device."""
        ...

    def parts(self, order: Order) -> Iterator[tuple[Tensor, Tensor]]:
        """A batch's parts in the given order, on the CPU, for ``prepare``; random numbers follow from order and seed.

        Raises:
            DataError: a picture cannot be decoded.
        """
        ...

    def prepare(self, first: Tensor, second: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """One of ``parts``, moved to the device, as the model's input and the loss's targets."""
        ...

    def loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a part, under autocast where the run has it."""
        ...

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Figures of merit on the held-out pictures; every process must call this, and all get the same."""
        ...

    def headline(self, metrics: dict[str, float]) -> str:
        """The one or two of those figures that a line of progress shows."""
        ...

    def describe(self) -> Description:
        """What the checkpoint says of the data."""
        ...

    def samples(self) -> tuple[Pixels, Classes] | CleanSamples:
        """Held-out pictures for export to compare engines on: with their classes, or a denoiser's without noise."""
        ...


def open_task(recipe: Recipe, process: Process) -> Task:
    """The task of a recipe, with its data open.

    Raises:
        DataError, RecipeError: the data cannot be used, or the recipe does not fit them.
    """
    if recipe.task == "classification":
        from train.classification import classification

        return classification(recipe, process)
    if recipe.task == "denoising":
        from train.denoising import denoising

        return denoising(recipe, process)
    if recipe.task == "video-denoising":
        from train.video_denoising import video_denoising

        return video_denoising(recipe, process)
    raise RecipeError(f"task = {recipe.task!r} cannot be trained")
