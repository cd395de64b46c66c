"""Video denoising: noisy clips become clean ones, the noise's level is given. PSNR and SSIM on whole sequences."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.checkpoints import CleanSamples
from skipvit.transforms import Pixels
from train.batches import Order, load
from train.clip_data import VideoData, open_videos
from train.clip_patches import TrainingClips
from train.denoising import charbonnier
from train.distributed import Process
from train.noise import read_levels
from train.picture_quality import Quality
from train.recipe import Recipe as AnyRecipe
from train.recipe import RecipeError
from train.restore_clip import restore_clip
from train.task import Description, Place
from train.video_denoising_recipe import Recipe
from train.video_quality import Sequence, frame_qualities, mean

# Held-out clips that a checkpoint brings for export: so many, cropped to one size of at most this.
_SAMPLES, _SAMPLE_SIDE = 4, 256


@dataclass(frozen=True)
class VideoDenoising:
    """See train/task.py for what a task is. ``parts`` are clean (B, T, 3, P, P) uint8 and levels of noise (B,)."""

    recipe: Recipe
    data: VideoData
    process: Process
    clips: TrainingClips

    @property
    def pictures(self) -> int:
        return self.clips.count

    @property
    def repeats(self) -> int:
        return 1

    @property
    def frames(self) -> int:
        """Of a clip as the model takes it."""
        return 1 if self.recipe.data.alone else self.recipe.data.frames

    def model_args(self) -> dict[str, Any]:
        args = self.recipe.model.args
        if "frames" in args:
            raise RecipeError(
                f"model.args has frames, which data.frames = {self.recipe.data.frames} decides; leave it out"
            )
        return {"frames": self.frames, **args}

    def check_part(self, size: int) -> None:
        pass  # any will do

    def some_pictures(self) -> Iterator[Tensor]:
        return iter(())  # what is calibrated on pictures are static matrices, which no denoiser has

    def parts(self, order: Order) -> Iterator[tuple[Tensor, Tensor]]:
        pin = self.process.device.type == "cuda"
        return load(self.clips, order, self.recipe.data.workers, pin=pin)

    def prepare(self, first: Tensor, second: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        clean, sigma = (tensor.to(self.process.device, non_blocking=True) for tensor in (first, second))
        clean = clean.float() / 255
        level = (sigma / 255).view(-1, 1, 1, 1, 1)
        noisy, noise_map = clean + level * torch.randn_like(clean), level.expand_as(clean[:, :, :1])  # (B, T, 1, P, P)
        if self.recipe.noise.saved:
            is_file = torch.rand_like(level) < self.recipe.noise.saved
            noisy = torch.where(is_file, (noisy.clamp(0, 1) * 255).round() / 255, noisy)
        inputs = torch.cat([noisy, noise_map], dim=2)
        if self.recipe.data.alone:  # (B, T, ...) -> (B*T, 1, ...)
            return inputs.flatten(0, 1)[:, None], clean.flatten(0, 1)[:, None]
        return inputs, clean

    def loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.recipe.optim.loss == "mse":
            return F.mse_loss(outputs.float(), targets)
        return charbonnier(outputs.float(), targets, self.recipe.optim.charbonnier)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Every process measures all sequences: they differ in length, and sharded models talk in each window."""
        videos, sigma, most = self.data.held_out, self.recipe.noise.held_out_sigma, self.recipe.data.held_out_frames
        sequences = [Sequence(videos, index, sigma, most) for index in range(len(videos.names))]
        restored = held_out_quality(model, sequences, self.process.device)
        noisy = mean(mean(frame_qualities(sequence, iter)) for sequence in sequences)
        return {**asdict(mean(restored)), "psnr_noisy": noisy.psnr}

    def headline(self, metrics: dict[str, float]) -> str:
        return f"PSNR {metrics['psnr']:.2f} dB, noisy {metrics['psnr_noisy']:.2f}  SSIM {metrics['ssim']:.4f}"

    def describe(self) -> Description:
        held_out, most = self.data.held_out, self.recipe.data.held_out_frames
        cut = f", first {most} frames" if most else ""
        name = f"{self.data.held_out_name}{cut}, Gaussian noise of sigma {self.recipe.noise.held_out_sigma:g}"
        return Description("video-denoising", name, len(held_out.names))

    def samples(self) -> CleanSamples:
        """The first clips of some of the held-out sequences, cropped about their centres to one size."""
        held_out = self.data.held_out
        n = len(held_out.names)
        chosen = np.linspace(0, n - 1, min(n, _SAMPLES)).round().astype(int).tolist()
        clips = [_first(held_out.frames(index), self.frames) for index in chosen]
        return CleanSamples(centre_crops(clips, _SAMPLE_SIDE), tuple(held_out.names[index] for index in chosen))


def video_denoising(recipe: AnyRecipe, process: Process) -> VideoDenoising:
    """The task of a video denoiser's recipe, its data open.

    Raises:
        DataError, RecipeError: the data cannot be used, or the recipe does not fit them.
    """
    assert isinstance(recipe, Recipe), "read_recipe gives the kind that the task asks for"
    opened, data, augment = open_videos(recipe.data.uri), recipe.data, recipe.augment
    clips = TrainingClips(
        opened.train,
        data.frames,
        data.patch,
        data.clips_per_epoch,
        recipe.run.seed,
        read_levels(recipe.noise.sigma, 0, 255),
        augment.turn,
        augment.reverse,
        augment.permute_channels,
    )
    return VideoDenoising(recipe, opened, process, clips)


def held_out_quality(model: nn.Module, sequences: list[Sequence], device: torch.device) -> list[Quality]:
    """Of what the model makes of each sequence; it is left in the mode, training or evaluation, in which it came."""
    was_training = model.training
    model.eval()
    try:
        return [
            mean(frame_qualities(each, partial(restore_clip, model, sigma=each.sigma, device=device)))
            for each in sequences
        ]
    finally:
        model.train(was_training)


def centre_crops(clips: list[Pixels], most: int) -> Pixels:
    """(n, T, H, W, 3): the middle of each clip, in the largest size that all have, of at most ``most`` pixels a side.

    Sides are multiples of 64, or of 32 where they are shorter, so that a model need not pad them.
    """
    sides = [min(most, min(clip.shape[axis] for clip in clips)) for axis in (1, 2)]
    height, width = (side // step * step if side >= (step := 64 if side >= 64 else 32) else side for side in sides)
    corners = [((c.shape[1] - height) // 2, (c.shape[2] - width) // 2) for c in clips]
    return np.stack([c[:, y : y + height, x : x + width] for c, (y, x) in zip(clips, corners, strict=True)])


def _first(frames: Iterator[Pixels], count: int) -> Pixels:
    """(count, H, W, 3); a shorter sequence's last frame is repeated."""
    taken = [frame for frame, _ in zip(frames, range(count), strict=False)]
    return np.stack(taken + taken[-1:] * (count - len(taken)))
