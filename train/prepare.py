"""From uint8 pictures to what model and loss take: per picture on a CPU worker, then per batch on the device."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from skipvit.models.timm_guard import timm
from skipvit.transforms import Preprocessing, to_rgb
from train.augment import GlyphDistortion


def as_evaluated(preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
    """The server's own preprocessing, as a transform to (3, H, W) uint8."""

    def transform(image: Image.Image) -> Tensor:
        return torch.from_numpy(preprocessing(image).copy()).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)

    return transform


def imagenet_transform(
    image_size: int, min_area: float, flip: float, color_jitter: float, rand_augment: str, mean: tuple[float, ...]
) -> Callable[[Image.Image], Tensor]:
    """timm's training transform for photographs, up to (3, H, W) uint8: random crop, flip, RandAugment or jitter."""
    timm.data.auto_augment.NAME_TO_OP["PosterizeIncreasing"] = _posterize
    transform = timm.data.create_transform(
        image_size,
        is_training=True,
        scale=(min_area, 1.0),
        hflip=flip,
        color_jitter=color_jitter,  # timm drops it where RandAugment is on, as DeiT does
        auto_augment=rand_augment or None,
        interpolation="bicubic",
        mean=mean,  # RandAugment fills what it uncovers with it
        normalize=False,
    )
    return lambda image: transform(to_rgb(image))


def _posterize(image: Image.Image, bits_to_keep: int, **_: object) -> Image.Image:
    """timm's RandAugment asks to keep no bit at full strength. Pillow gave black for it, and from 13 on refuses."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return image if bits_to_keep >= 8 else ImageOps.posterize(image, bits_to_keep)


def normalise(pixels: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """(B, 3, H, W), uint8 or 0..1, to the model's input in float32."""
    scaled = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    shape = (1, 3, 1, 1)
    return (scaled - scaled.new_tensor(mean).view(shape)) / scaled.new_tensor(std).view(shape)


@dataclass
class BatchTransform:
    """The device's share: glyph distortion, normalisation, random erasing, mixup and cutmix."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_classes: int
    label_smoothing: float = 0.0
    glyphs: GlyphDistortion | None = None
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0

    def __post_init__(self) -> None:
        self._mix = None
        if self.mixup or self.cutmix:
            self._mix = timm.data.Mixup(
                self.mixup,
                self.cutmix,
                prob=self.mix_probability,
                label_smoothing=self.label_smoothing,
                num_classes=self.num_classes,
            )

    def __call__(self, pixels: Tensor, labels: Tensor, u: Tensor, ramp: float = 1.0) -> tuple[Tensor, Tensor]:
        """One part of a batch.

        Args:
            pixels: (B, 3, H, W) uint8.
            labels: (B,) class indices.
            u: (B, 16) uniform numbers for the glyph distortion.
            ramp: how far the glyph distortion has been turned up, 0 to 1.

        Returns:
            images (B, 3, H, W) float32 and targets (B, num_classes), smoothed and mixed.
        """
        scaled = pixels.float() / 255
        if self.glyphs is not None:
            scaled = self.glyphs(scaled, u, ramp)
        images = normalise(scaled, self.mean, self.std)
        if self.random_erasing:
            erase = timm.data.random_erasing.RandomErasing(self.random_erasing, mode="pixel", device=images.device)
            images = erase(images)
        if self._mix is not None:
            mixed: tuple[Tensor, Tensor] = self._mix(images, labels)
            return mixed
        off = self.label_smoothing / self.num_classes
        return images, F.one_hot(labels, self.num_classes) * (1 - self.label_smoothing) + off
