"""The recipe of a classifier: the sections that only classification has."""

from typing import Annotated, Literal

from pydantic import Field

from train import recipe as r
from train.recipe import Fraction

_Positive = Annotated[float, Field(gt=0)]
PositiveTriple = Annotated[tuple[_Positive, _Positive, _Positive], Field(strict=False)]
Triple = Annotated[tuple[float, float, float], Field(strict=False)]


class Data(r.Data):
    """Where pictures come from, and how evaluation and the server bring them to the model's size."""

    image_size: int = Field(default=224, ge=1, le=16384)
    resize: Literal["crop", "squash"] = "crop"
    crop_pct: float = Field(default=0.875, gt=0.0, le=1.0)
    interpolation: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bicubic"
    mean: Triple = (0.485, 0.456, 0.406)
    std: PositiveTriple = (0.229, 0.224, 0.225)
    repeats: int = Field(default=1, ge=1, description="repeated augmentation: views of one picture per epoch")


class Augment(r.Section):
    """``digits`` distorts a batch of glyphs, ``imagenet`` crops and recolours photographs, ``none`` resizes."""

    kind: Literal["none", "digits", "imagenet"] = "none"
    # imagenet
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    color_jitter: float = Field(default=0.4, ge=0.0)
    flip: Fraction = 0.5
    min_area: float = Field(default=0.08, gt=0.0, le=1.0)
    random_erasing: Fraction = 0.0
    # digits
    rotation: float = Field(default=12.0, ge=0.0, le=90.0, description="degrees to either side")
    shear: float = Field(default=0.15, ge=0.0, le=1.0)
    aspect: float = Field(default=1.25, ge=1.0, le=4.0, description="height may grow over width by this, or shrink")
    margin: float = Field(default=0.25, ge=0.0, le=0.45, description="empty frame around the ink, of each side")
    thickness: Fraction = 0.5
    contrast: Fraction = 0.5
    plain: Fraction = Field(default=0.2, description="share of pictures that are not distorted, but inverted or not")
    ramp_epochs: float = Field(default=0.0, ge=0.0, description="all are plain at first, and fewer until this epoch")
    # both
    mixup: float = Field(default=0.0, ge=0.0)
    cutmix: float = Field(default=0.0, ge=0.0)
    mix_probability: Fraction = 1.0


class Optim(r.Optim):
    """AdamW and the loss."""

    label_smoothing: Fraction = 0.0


class Distill(r.Section):
    """(1 - weight) cross entropy + weight x the teacher's part: T² KL at temperature T, or its class as hard label."""

    teacher: str = Field(default="none", description="checkpoint folder, or a timm model whose weights are fetched")
    kind: Literal["soft", "hard"] = "soft"
    temperature: float = Field(default=2.0, gt=0.0)
    weight: Fraction = 0.5
    other_names: bool = Field(default=False, description="the teacher's classes are the data's, under other names")


class Recipe(r.Recipe):
    """A whole recipe of a classifier."""

    task: Literal["classification"] = "classification"
    data: Data
    augment: Augment = Augment()
    optim: Optim
    distill: Distill = Distill()
