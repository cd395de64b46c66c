"""The recipe of a video denoiser: the sections that only video denoising has."""

from typing import Literal

from pydantic import Field, field_validator

from train import recipe as r
from train.noise import read_levels


class Data(r.Data):
    """Where clips come from, and how many are cut."""

    frames: int = Field(default=5, ge=1, le=64, description="of a clip, and of the model, which has no say in it")
    alone: bool = Field(default=False, description="frames go through a model of single frames, one by one")
    patch: int = Field(default=96, ge=8, le=4096, description="side of a clip, in pixels")
    clips_per_epoch: int = Field(ge=1)
    held_out_frames: int = Field(default=0, ge=0, description="of each sequence, the first so many; 0 takes all")


class Noise(r.Section):
    """Gaussian noise, drawn for each clip at one level that the model is told."""

    sigma: str = Field(default="5-55", description="standard deviation in 1/255, written as in train/noise.py")
    saved: r.Fraction = Field(default=0.0, description="share of clips clipped and rounded to 8 bits, as files are")
    held_out_sigma: float = Field(default=30.0, gt=0.0, le=255.0)

    @field_validator("sigma")
    @classmethod
    def _deviations(cls, text: str) -> str:
        read_levels(text, 0, 255)
        return text


class Augment(r.Section):
    """The same for all frames of a clip."""

    turn: bool = Field(default=True, description="one of the 8 ways to turn and mirror a square")
    reverse: bool = Field(default=True, description="half of all clips run backwards")
    permute_channels: bool = False


class Optim(r.Optim):
    """AdamW, which is Adam at weight_decay 0, and the loss."""

    loss: Literal["charbonnier", "mse"] = "charbonnier"
    charbonnier: float = Field(default=1e-3, gt=0.0, description="ε of sqrt(d² + ε²), with pixels in 0..1")


class Recipe(r.Recipe):
    """A whole recipe of a video denoiser."""

    task: Literal["video-denoising"] = "video-denoising"
    data: Data
    noise: Noise = Noise()
    augment: Augment = Augment()
    optim: Optim
