"""Distillation: the student also learns what a teacher says of the very same pictures, augmented and mixed as they are.

    soft    L = (1 - α) CE(y, s) + α T² KL(softmax(t / T) || softmax(s / T))       Hinton et al., arXiv 1503.02531
    hard    L = (1 - α) CE(y, s) + α CE(argmax t, s)                                DeiT, arXiv 2012.12877, eq. 3

s and t are the logits of student and teacher; with α = 1 no label is looked at.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.transforms import Preprocessing
from train.recipe import RecipeError
from train.start import open_source


@dataclass(frozen=True)
class Distillation:
    """The teacher's part in the loss.

    Args:
        teacher: in eval mode, on the device, from images (B, 3, H, W) to logits (B, num_classes).
        temperature: T, which only ``soft`` uses.
        weight: α, 0 to 1.
    """

    teacher: nn.Module
    kind: Literal["soft", "hard"]
    temperature: float
    weight: float

    def __call__(self, images: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
        """The student's cross entropy ``loss`` over its float32 ``logits`` (B, num_classes), and the teacher's part."""
        with torch.no_grad():
            taught = self.teacher(images).float()
        return (1 - self.weight) * loss + self.weight * self.distance(taught, logits)

    def distance(self, taught: Tensor, logits: Tensor) -> Tensor:
        """How far the student is from the teacher, mean over the batch."""
        if self.kind == "hard":
            return F.cross_entropy(logits, taught.argmax(dim=1))
        t, s = ((x / self.temperature).log_softmax(dim=1) for x in (taught, logits))
        return self.temperature**2 * F.kl_div(s, t, reduction="batchmean", log_target=True)


def open_teacher(source: str, preprocessing: Preprocessing, labels: tuple[str, ...], other_names: bool) -> nn.Module:
    """A trained model that sees the pictures as the student does, and tells the same classes apart.

    Args:
        other_names: its classes are ``labels`` in their order, though it calls them otherwise.

    Raises:
        RecipeError: it cannot be had, or differs in preprocessing or classes.
    """
    origin = open_source("distill.teacher", source)
    mine, theirs = preprocessing.model_dump(mode="json"), origin.preprocessing.model_dump(mode="json")
    different = [f"{key} {theirs[key]} where the recipe has {mine[key]}" for key in mine if mine[key] != theirs[key]]
    if different:
        raise RecipeError(
            f"distill.teacher = {source!r} was trained with another preprocessing: {', '.join(different)}; "
            "change [data], or choose another teacher"
        )
    if len(origin.labels) != len(labels):
        raise RecipeError(
            f"distill.teacher = {source!r} knows {len(origin.labels)} classes, the data has {len(labels)}; "
            "choose a teacher trained on these classes"
        )
    if origin.labels != labels and not other_names:
        at = next(i for i, (a, b) in enumerate(zip(origin.labels, labels, strict=True)) if a != b)
        raise RecipeError(
            f"distill.teacher = {source!r} calls class {at} {origin.labels[at]!r}, the data {labels[at]!r}; choose "
            "another teacher, or set distill.other_names=true if these are the same classes in the same order"
        )
    return origin.model.eval().requires_grad_(False)
