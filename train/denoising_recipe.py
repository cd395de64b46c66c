"""The recipe of a denoiser: the sections that only denoising has."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from train import recipe as r
from train.noise import read_levels

Kind = Literal["gaussian", "poisson-gaussian", "jpeg"]


class Data(r.Data):
    """Where pictures come from, and how many square patches are cut of them."""

    patch: int = Field(default=128, ge=8, le=4096, description="side of a patch, in pixels")
    patches_per_epoch: int = Field(default=0, ge=0, description="over all pictures; 0 takes one of each")


class Noise(r.Section):
    """What is added to clean pictures; pictures that come in pairs have their own. Levels are written as in noise.py.

    Each patch gets one of ``kinds``. ``held_out_sigma`` is that of the evaluation, Gaussian whatever was trained on.
    """

    kinds: Annotated[tuple[Kind, ...], Field(strict=False, min_length=1)] = ("gaussian",)
    sigma: str = Field(default="5-50", description="standard deviation, in 1/255")
    photons: str = Field(default="30-3000", description="counted at white, for poisson-gaussian")
    quality: str = Field(default="10-95", description="for jpeg")
    saved: r.Fraction = Field(default=0.0, description="share of patches clipped and rounded to 8 bits, as files are")
    held_out_sigma: float = Field(default=25.0, gt=0.0, le=255.0)

    @field_validator("sigma", "photons", "quality", mode="before")
    @classmethod
    def _one_level(cls, value: object) -> object:
        """A single level may also be a number."""
        return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("sigma")
    @classmethod
    def _deviations(cls, text: str) -> str:
        read_levels(text, 0, 255)
        return text

    @field_validator("photons")
    @classmethod
    def _counts(cls, text: str) -> str:
        read_levels(text, 1, 1e6)
        return text

    @field_validator("quality")
    @classmethod
    def _qualities(cls, text: str) -> str:
        read_levels(text, 1, 100)
        return text


class Augment(r.Section):
    """``mixup`` is the parameter of Uformer's Beta distribution, whose value is 1.2; 0 mixes nothing."""

    turn: bool = Field(default=True, description="one of the 8 ways to turn and mirror a square")
    permute_channels: bool = False
    mixup: float = Field(default=0.0, ge=0.0)
    mixup_after: int = Field(default=5, ge=0, description="epochs without mixup at the beginning")


class Optim(r.Optim):
    """AdamW and the loss."""

    charbonnier: float = Field(default=1e-3, gt=0.0, description="ε of sqrt(d² + ε²), with pictures in 0..1")


class Recipe(r.Recipe):
    """A whole recipe of a denoiser."""

    task: Literal["denoising"] = "denoising"
    data: Data
    noise: Noise | None = None
    augment: Augment = Augment()
    optim: Optim
