"""Denoising: a noisy picture becomes a clean one. Charbonnier's loss on patches; PSNR and SSIM on whole pictures."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skipvit.checkpoints import CleanSamples
from skipvit.transforms import Pixels
from train.batches import Order, load
from train.denoising_recipe import Noise as NoiseSection
from train.denoising_recipe import Recipe
from train.distributed import Process
from train.noise import (
    Gaussian,
    Jpeg,
    Levels,
    Noise,
    OneOf,
    Picture,
    PoissonGaussian,
    SometimesSaved,
    evaluation_noise,
    read_levels,
)
from train.patches import TrainingPatches
from train.photographs import Kept, NoisyData, Pair, open_photographs
from train.picture_quality import SMALLEST, Quality, quality
from train.pictures import DataError
from train.recipe import Recipe as AnyRecipe
from train.recipe import RecipeError
from train.restore import restore
from train.task import Description, Place

# Decoded pictures kept in memory, over all workers of a process.
_KEPT_BYTES = 1 << 30
# Held-out pictures that a checkpoint brings for export and the page: so many, cropped to one size of at most this.
_SAMPLES, _SAMPLE_SIDE = 16, 512


@dataclass(frozen=True)
class Denoising:
    """See train/task.py for what a task is. ``parts`` are noisy (B, 3, P, P) float32 and clean (B, 3, P, P) uint8."""

    recipe: Recipe
    data: NoisyData
    process: Process
    patches: TrainingPatches
    held_out_sigma: float

    @property
    def pictures(self) -> int:
        return self.patches.count

    @property
    def repeats(self) -> int:
        return 1

    def model_args(self) -> dict[str, Any]:
        if (channels := self.recipe.model.args.get("in_chans", 3)) != 3:
            raise RecipeError(f"model.args has in_chans = {channels!r}, and pictures have 3 channels; leave it out")
        return self.recipe.model.args

    def check_part(self, size: int) -> None:
        if self.recipe.augment.mixup and size < 2:
            raise RecipeError(f"augment.mixup mixes patches of a part with each other, and parts have {size} only")

    def some_pictures(self) -> Iterator[Tensor]:
        return iter(())  # what is calibrated on pictures are static matrices, which no denoiser has

    def parts(self, order: Order) -> Iterator[tuple[Tensor, Tensor]]:
        pin = self.process.device.type == "cuda"
        return load(self.patches, order, self.recipe.data.workers, pin=pin)

    def prepare(self, first: Tensor, second: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        noisy, clean = (tensor.to(self.process.device, non_blocking=True) for tensor in (first, second))
        clean = clean.float() / 255
        augment = self.recipe.augment
        if augment.mixup and place.step >= augment.mixup_after * place.steps_per_epoch:
            return mixed(noisy, clean, augment.mixup)
        return noisy, clean

    def loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        return charbonnier(outputs.float(), targets, self.recipe.optim.charbonnier)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        found = held_out_quality(model, self.data, self.held_out_sigma, self.process)
        return {name: float(np.mean([asdict(q)[name] for q in found])) for name in ("psnr", "psnr_float", "ssim")}

    def headline(self, metrics: dict[str, float]) -> str:
        return f"PSNR {metrics['psnr']:.2f} dB  SSIM {metrics['ssim']:.4f}"

    def describe(self) -> Description:
        noise = "" if self.data.paired else f", Gaussian noise of sigma {self.held_out_sigma:g}"
        return Description("denoising", self.data.held_out_name + noise, len(self.data.held_out.names))

    def samples(self) -> CleanSamples:
        """Some of the held-out pictures, clean, evenly spaced, cropped about their centres to one size."""
        held_out = self.data.held_out
        n = len(held_out.names)
        chosen = np.linspace(0, n - 1, min(n, _SAMPLES)).round().astype(int).tolist()
        pictures = [held_out.open(index).clean for index in chosen]
        return CleanSamples(centre_crops(pictures, _SAMPLE_SIDE), tuple(held_out.names[index] for index in chosen))


def denoising(recipe: AnyRecipe, process: Process) -> Denoising:
    """The task of a denoiser's recipe, its data open.

    Raises:
        DataError, RecipeError: the data cannot be used, or the recipe does not fit them.
    """
    assert isinstance(recipe, Recipe), "read_recipe gives the kind that the task asks for"
    data = open_photographs(recipe.data.uri)
    section = noise_section(recipe, data)
    patches = TrainingPatches(
        Kept(data.train, _KEPT_BYTES // max(1, recipe.data.workers)),
        recipe.data.patch,
        recipe.data.patches_per_epoch or len(data.train.names),
        recipe.run.seed,
        None if data.paired else noise_of(section, data.sigma),
        recipe.augment.turn,
        recipe.augment.permute_channels,
    )
    return Denoising(recipe, data, process, patches, section.held_out_sigma)


def noise_section(recipe: Recipe, data: NoisyData) -> NoiseSection:
    """The recipe's [noise], or what stands for it where it has none.

    Raises:
        RecipeError: the pictures have noise already, or their URI says which.
    """
    if recipe.noise is not None and data.paired:
        raise RecipeError(
            f"[noise] is for clean pictures, and those of {data.uri} have their own; "
            "leave it out, or begin with a recipe that has none, such as uformer_tiny"
        )
    if recipe.noise is not None and data.sigma is not None:
        raise RecipeError(f"{data.uri} and [noise] both say which noise is added; leave one of them out")
    if data.sigma is not None and len(data.sigma.values) == 1 and data.sigma.values[0] > 0:
        return NoiseSection(held_out_sigma=data.sigma.values[0])
    return recipe.noise or NoiseSection()


def noise_of(section: NoiseSection, sigma: Levels | None) -> Noise:
    """The noise that patches get; ``sigma`` is the URI's."""
    if sigma is not None:
        return Gaussian(sigma)
    deviations = read_levels(section.sigma, 0, 255)
    kinds: dict[str, Noise] = {
        "gaussian": Gaussian(deviations),
        "poisson-gaussian": PoissonGaussian(read_levels(section.photons, 1, 1e6), deviations),
        "jpeg": Jpeg(read_levels(section.quality, 1, 100)),
    }
    chosen = [kinds[kind] for kind in section.kinds]
    noise = OneOf(chosen) if len(chosen) > 1 else chosen[0]
    return SometimesSaved(noise, section.saved) if section.saved else noise


def charbonnier(restored: Tensor, clean: Tensor, epsilon: float) -> Tensor:
    """Mean of sqrt(d² + ε²) (Charbonnier et al., ICIP 1994): |d| but for differences of the order of ε."""
    return ((restored - clean).square() + epsilon**2).sqrt().mean()


def mixed(noisy: Tensor, clean: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Each pair (B, 3, P, P) blended with another of the batch, by its own weight from Beta(β, β), as Uformer does."""
    other = torch.randperm(len(noisy)).to(noisy.device)
    weight = torch.distributions.Beta(beta, beta).sample((len(noisy), 1, 1, 1)).to(noisy.device)
    return torch.lerp(noisy[other], noisy, weight), torch.lerp(clean[other], clean, weight)


def spoiled(pair: Pair, name: str, sigma: float) -> Picture:
    """The noisy picture (H, W, 3) in 0..1 of an evaluation, not clipped: its own, or with Gaussian noise.

    Raises:
        DataError: the picture is too small to be measured.
    """
    height, width = pair.clean.shape[:2]
    if min(height, width) < SMALLEST:
        raise DataError(f"{name} is {width} x {height} pixels, and SSIM needs {SMALLEST} on each side; leave it out")
    if pair.noisy is not None:
        return pair.noisy.astype(np.float32) / np.float32(255)
    return evaluation_noise(pair.clean.astype(np.float32) / np.float32(255), sigma, name)


def held_out_quality(model: nn.Module, data: NoisyData, sigma: float, process: Process) -> list[Quality]:
    """Quality of what the model makes of each held-out picture, on every process; float32 arithmetic.

    The model is left in the mode, training or evaluation, in which it came.
    """
    n, world = len(data.held_out.names), process.world
    # All processes restore the same number of pictures, since sharded models talk in each: the last repeat picture 0.
    mine = [i if i < n else 0 for i in range(process.rank, -(-n // world) * world, world)]
    was_training = model.training
    model.eval()
    try:
        found = [_quality(model, data, index, sigma, process.device) for index in mine]
    finally:
        model.train(was_training)
    rows = torch.tensor([[q.psnr, q.psnr_float, q.ssim] for q in found], dtype=torch.float64, device=process.device)
    return [Quality(*row) for row in process.gather(rows)[:n].tolist()]


def _quality(model: nn.Module, data: NoisyData, index: int, sigma: float, device: torch.device) -> Quality:
    pair = data.held_out.open(index)
    return quality(restore(model, spoiled(pair, data.held_out.names[index], sigma), device), pair.clean)


def centre_crops(pictures: list[Pixels], most: int) -> Pixels:
    """(n, H, W, 3): the middle of each picture, in the largest size that all have, of at most ``most`` pixels a side.

    Sides are multiples of 128, or of 32 where they are shorter, so that a model need not pad them.
    """
    sides = [min(most, min(picture.shape[axis] for picture in pictures)) for axis in (0, 1)]
    height, width = (side // step * step if side >= (step := 128 if side >= 128 else 32) else side for side in sides)
    corners = [((p.shape[0] - height) // 2, (p.shape[1] - width) // 2) for p in pictures]
    return np.stack([p[y : y + height, x : x + width] for p, (y, x) in zip(pictures, corners, strict=True)])
