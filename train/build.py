"""From a recipe to the things it names. The recipe stops here: what is built takes plain arguments."""

from typing import Any

from torch import nn

from skipvit.models import create_model
from skipvit.models.timm_guard import timm
from skipvit.transforms import Preprocessing
from train import recipe as r
from train.augment import GlyphDistortion
from train.batches import TrainingPictures
from train.pictures import Pictures
from train.prepare import BatchTransform, as_evaluated, imagenet_transform

# Training pictures of up to this side are kept in memory once they are preprocessed.
_KEPT_SIZE = 32


def preprocessing_of(data: r.Data) -> Preprocessing:
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


def model_args(recipe: r.Recipe, num_classes: int) -> dict[str, Any]:
    """Keyword arguments that make the recipe's model fit its data."""
    if "num_classes" in recipe.model.args:
        raise r.RecipeError(f"model.args has num_classes, but the data decides: it has {num_classes}; leave it out")
    args: dict[str, Any] = {"num_classes": num_classes, **recipe.model.args}
    # A ViT is built for one size; a convolutional network takes any and knows no such argument.
    cfg = timm.get_pretrained_cfg(recipe.model.name) if timm.is_model(recipe.model.name) else None
    if cfg is not None and cfg.fixed_input_size:
        args.setdefault("img_size", recipe.data.image_size)
    return args


def build_model(recipe: r.Recipe, num_classes: int) -> nn.Module:
    """The model with fresh weights; the caller seeds torch first.

    Raises:
        RecipeError: no such model, or its arguments do not suit it.
    """
    try:
        return create_model(recipe.model.name, **model_args(recipe, num_classes))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise r.RecipeError(f"model.name = {recipe.model.name!r} cannot be built: {error}") from None


def training_pictures(recipe: r.Recipe, pictures: Pictures) -> TrainingPictures:
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
        raise r.RecipeError(text) from None
    return TrainingPictures(pictures, transform, seed)


def batch_transform(recipe: r.Recipe, num_classes: int) -> BatchTransform:
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
