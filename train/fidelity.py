"""How faithful a converted model is to the original, and how much faster: on the same pictures, without labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.transforms import Pixels, Preprocessing
from train.conversion import Stage
from train.pictures import Labels
from train.prepare import normalise
from train.speed import rates
from train.unlabelled import Material

_TINY = 64  # a side in pixels
_MANY, _FEW = 512, 64  # pictures that export compares engines on: of tiny ones, of larger ones


class Fidelity(NamedTuple):
    """Means over pictures; see `train.conversion.Stage`."""

    cosine: float
    agreement: float
    kl: float


def fidelity(original: Tensor, converted: Tensor) -> Fidelity:
    """Compares logits (n, classes) of two models on the same n pictures; float64 arithmetic."""
    a, b = original.double(), converted.double()
    divergence = F.kl_div(b.log_softmax(dim=1), a.log_softmax(dim=1), reduction="batchmean", log_target=True)
    same = (a.argmax(dim=1) == b.argmax(dim=1)).double().mean()
    return Fidelity(float(F.cosine_similarity(a, b, dim=1).mean()), float(same), float(divergence))


@dataclass(frozen=True)
class Yardstick:
    """The original and the pictures that stages are measured by. ``reference`` are its logits (m, classes) on them."""

    original: nn.Module
    material: Material
    preprocessing: Preprocessing
    device: torch.device
    reference: Tensor

    @classmethod
    def of(cls, original: nn.Module, material: Material, preprocessing: Preprocessing, device: torch.device) -> Self:
        """Runs the original once."""
        bare = cls(original, material, preprocessing, device, torch.empty(0))
        return cls(original, material, preprocessing, device, bare.logits(original))

    @property
    def tiny(self) -> bool:
        """Whether a batch of 64 pictures is small."""
        return self.preprocessing.height <= _TINY

    @property
    def batch(self) -> int:
        """Pictures of a forward pass."""
        return 64 if self.tiny else 16

    def images(self, pixels: Tensor) -> Iterator[Tensor]:
        """Pixels (n, 3, H, W) uint8 in batches, as the models take them."""
        for part in pixels.split(self.batch):
            yield normalise(part.to(self.device), self.preprocessing.mean, self.preprocessing.std)

    @torch.no_grad()
    def logits(self, model: nn.Module) -> Tensor:
        """Logits (m, classes) float32 on the held-out pictures."""
        return torch.cat([model(images).float() for images in self.images(self.material.held_out)]).cpu()

    def stage(self, name: str, model: nn.Module) -> Stage:
        """Compares a model with the original, in fidelity and in speed."""
        logits, labels = self.logits(model), self.material.labels
        speed = rates(self.original, model, next(self.images(self.material.held_out[: self.timed])))
        return Stage(
            name=name,
            **fidelity(self.reference, logits)._asdict(),
            top1=None if labels is None else float((logits.argmax(dim=1).numpy() == labels).mean()),
            images_per_s=speed.second,
            original_images_per_s=speed.first,
        )

    @property
    def timed(self) -> int:
        """Pictures of the batch that speed is measured with."""
        return min(64 if self.tiny else 4, len(self.material.held_out))

    def samples(self) -> tuple[Pixels, Labels]:
        """Some held-out pictures (B, H, W, 3), evenly spaced, and their classes, or else those the original gives."""
        held_out, labels = self.material.held_out, self.material.labels
        count = min(len(held_out), _MANY if self.tiny else _FEW)
        chosen = np.linspace(0, len(held_out) - 1, count).round().astype(np.int64)
        classes = self.reference.argmax(dim=1).numpy() if labels is None else labels
        return held_out.permute(0, 2, 3, 1).numpy()[chosen], np.asarray(classes[chosen], dtype=np.int64)
