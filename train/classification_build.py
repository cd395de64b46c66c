"""From a classifier's recipe to the things it names. The recipe stops here: what is built takes plain arguments."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipvit.models.timm_guard import timm
from skipvit.transforms import Preprocessing
from train.augment import GlyphDistortion
from train.batches import HeldOutPictures, TrainingPictures, load
from train.classification_recipe import Data, Recipe
from train.pictures import Pictures
from train.prepare import BatchTransform, as_evaluated, imagenet_transform, normalise
from train.recipe import RecipeError
from train.start import NONE
from train.teacher import Distillation, open_teacher

# Training pictures of up to this side are kept in memory once they are preprocessed.
_KEPT_SIZE = 32
# Pictures that a mean attention is taken over, and how many of them at once.
_SOME, _PART = 512, 64


def preprocessing_of(data: Data) -> Preprocessing:
    """How evaluation and the server see a picture."""
    return Preprocessing(
        height=data.image_size,
        width=data.image_size,
        resize=data.resize,
        crop_pct=data.crop_pct,
        interpolation=data.interpolation,
        mean=data.mean,
        std=data.std,
    )


def model_args(recipe: Recipe, num_classes: int) -> dict[str, Any]:
    """Keyword arguments that make the recipe's model fit its data."""
    if "num_classes" in recipe.model.args:
        raise RecipeError(f"model.args has num_classes, but the data decides: it has {num_classes}; leave it out")
    args: dict[str, Any] = {"num_classes": num_classes, **recipe.model.args}
    # A ViT is built for one size; a convolutional network takes any and knows no such argument.
    cfg = timm.get_pretrained_cfg(recipe.model.name) if timm.is_model(recipe.model.name) else None
    if cfg is not None and cfg.fixed_input_size:
        size = recipe.data.image_size
        if args.setdefault("img_size", size) not in (size, [size, size]) and not args.get("dynamic_img_size"):
            raise RecipeError(
                f"model.args has img_size = {args['img_size']}, and data.image_size gives squares of {size}; "
                "leave img_size out"
            )
    return args


def distillation(recipe: Recipe, classes: tuple[str, ...], device: torch.device) -> Distillation | None:
    """The teacher's part in the loss, where there is a teacher.

    Raises:
        RecipeError: the teacher cannot be had, or does not fit.
    """
    d = recipe.distill
    if d.teacher == NONE or d.weight == 0:
        return None
    teacher = open_teacher(d.teacher, preprocessing_of(recipe.data), classes, d.other_names).to(device)
    return Distillation(teacher, d.kind, d.temperature, d.weight)


def training_pictures(recipe: Recipe, pictures: Pictures) -> TrainingPictures:
    """The training set, with what a picture goes through on its own."""
    seed, augment = recipe.run.seed, recipe.augment
    if augment.kind != "imagenet":
        # What is tiny and always the same need not be decoded in every epoch.
        keep = recipe.data.workers == 0 and recipe.data.image_size <= _KEPT_SIZE
        return TrainingPictures(pictures, as_evaluated(preprocessing_of(recipe.data)), seed, keep)
    try:
        transform = imagenet_transform(
            recipe.data.image_size,
            augment.min_area,
            augment.flip,
            augment.color_jitter,
            augment.rand_augment,
            recipe.data.mean,
        )
    except (AssertionError, ValueError) as error:
        text = f"augment.rand_augment = {augment.rand_augment!r} is not in timm's notation: {error}"
        raise RecipeError(text) from None
    return TrainingPictures(pictures, transform, seed)


def some_pictures(recipe: Recipe, pictures: Pictures, device: torch.device) -> Iterator[Tensor]:
    """Some training pictures, evenly spaced, as evaluation would see them: batches (B, 3, H, W) on the device."""
    n = len(pictures.labels)
    chosen = np.linspace(0, n - 1, min(n, _SOME)).round().astype(int).tolist()
    batches = [chosen[low : low + _PART] for low in range(0, len(chosen), _PART)]
    held = HeldOutPictures(pictures, preprocessing_of(recipe.data))
    for pixels, _ in load(held, batches, recipe.data.workers, pin=False):
        yield normalise(pixels.to(device).permute(0, 3, 1, 2), recipe.data.mean, recipe.data.std)


def batch_transform(recipe: Recipe, num_classes: int) -> BatchTransform:
    """What a batch goes through on the device."""
    augment = recipe.augment
    glyphs = None
    if augment.kind == "digits":
        glyphs = GlyphDistortion(
            augment.rotation,
            augment.shear,
            augment.aspect,
            augment.margin,
            augment.thickness,
            augment.contrast,
            augment.plain,
        )
    return BatchTransform(
        recipe.data.mean,
        recipe.data.std,
        num_classes,
        recipe.optim.label_smoothing,
        glyphs,
        augment.random_erasing,
        augment.mixup,
        augment.cutmix,
        augment.mix_probability,
    )
