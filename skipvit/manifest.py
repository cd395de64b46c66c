"""A manifest: everything a server or a reader needs to know of one model version, as JSON beside its files.

Nothing here imports torch. skipvit.artifacts reads manifests and checks the files that they name.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from skipvit.transforms import Preprocessing

# Version 2 knows denoisers, version 3 engines. A manifest of an earlier version is one of the later ones too.
SCHEMA_VERSION: Literal[3] = 3
Task = Literal["classification", "denoising", "video-denoising"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
Flavor = Literal["tensorrt", "tensorrt-rtx"]

# A name becomes a folder, a URL segment and a metric label: letters, digits, dot, dash and underscore, no leading dot.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_SIDE = 4096
_MAX_FRAMES = 64


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Tensor(_Record):
    """A graph input or output. ``shape`` holds integers, and names for dynamic axes."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...] = Field(min_length=1)


class Tiling(_Record):
    """How a denoiser's pictures are cut: square tiles of one size, so that memory does not grow with the picture.

    Neighbouring tiles overlap by at least 2 x ``halo`` pixels and blend there. The graph takes any height and width
    that are multiples of ``multiple``. A video's clips have ``frames`` frames, of whose outputs the first ``lead`` and
    the last ``lag`` were computed with too little context, and are left to the neighbouring clips.
    """

    tile: int = Field(ge=1, le=_MAX_SIDE)
    halo: int = Field(ge=0)
    multiple: int = Field(ge=1)
    frames: int = Field(default=1, ge=1, le=_MAX_FRAMES)
    lead: int = Field(default=0, ge=0)
    lag: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        if self.tile % self.multiple:
            raise ValueError(f"a tile of {self.tile} is no multiple of {self.multiple}, which the graph needs")
        if 2 * self.halo >= self.tile:
            raise ValueError(f"halos of {self.halo} on both sides leave nothing of a tile of {self.tile}")
        if self.lead + self.lag >= self.frames:
            raise ValueError(f"{self.lead} frames before and {self.lag} after leave none of {self.frames}")
        return self


class Parity(_Record):
    """How close one exported file comes to the PyTorch model it was made from, on the same pictures.

    Of a classifier, differences are those of logits. Of a denoiser they are of pixels in 0..255 before rounding, and
    ``psnr_db`` says the same in dB with peak 255; equal outputs count as 200 dB. ``max_levels`` is the largest
    difference of the rounded pixels.
    """

    file: str
    precision: Precision
    engine: str
    images: int = Field(ge=1)
    images_from: str
    max_abs: float = Field(ge=0)
    mean_abs: float = Field(ge=0)
    max_relative: float = Field(ge=0)
    top1_agreement: float | None = Field(default=None, ge=0, le=1)
    psnr_db: float | None = Field(default=None, le=200)
    max_levels: int | None = Field(default=None, ge=0, le=255)
    tolerance: str


class Engine(_Record):
    """A TensorRT engine built from one ONNX file of the version, and what became of our ops in it.

    ``shapes`` has the optimisation profile of every input: its smallest, usual and largest shape. ``plugins`` and
    ``bodies`` count, by op, the nodes that our kernels compute and those that TensorRT computes from the op's body.
    ``status`` is "verified" exactly if it was run on a GPU and compared: ``parity`` has the figures.
    """

    file: str
    made_from: str
    precision: Precision
    flavor: Flavor
    flavor_version: str
    gpu: str
    """Name of the GPU it was verified on, else of the one it was built on, or "none" if neither had one."""
    compute_capability: str
    """What it runs on: such as "9.0", or "7.5+" for an engine that is not tied to one architecture."""
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = Field(min_length=1)
    plugins: dict[str, int]
    bodies: dict[str, int]
    options: dict[str, str | int | bool]
    status: Literal["verified", "built, not run"]
    parity: Parity | None = None

    @model_validator(mode="after")
    def _says_what_was_done(self) -> Self:
        if (self.status == "verified") != (self.parity is not None):
            raise ValueError(f"engine {self.file} is {self.status!r}, which its parity figures do not agree with")
        return self

    def build_command(self, folder: Path) -> str:
        """The command that builds, or verifies, this engine of the version that lies in ``folder``."""
        flavor = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}[self.flavor]
        return f"skipvit-to-trt {shlex.quote(str(folder))} --flavor {flavor} --precision {self.precision}"


class Evaluation(_Record):
    """The task's own figures, measured in PyTorch on a named set before export.

    ``top1`` and its kin of a classifier; ``psnr`` in dB and ``ssim`` of a denoiser, the noise named in ``dataset``.
    """

    dataset: str
    images: int = Field(ge=1)
    metrics: dict[str, float]


class Manifest(_Record):
    """Everything a server or a reader needs to know of one model version.

    A classifier has ``preprocessing``, a denoiser ``tiling``. ``samples`` are clean pictures beside the manifest that a
    page may offer to try a denoiser on.
    """

    schema_version: Literal[1, 2, 3] = SCHEMA_VERSION
    name: str
    version: int = Field(ge=1)
    task: Task
    architecture: str
    inputs: tuple[Tensor, ...] = Field(min_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    preprocessing: Preprocessing | None = None
    tiling: Tiling | None = None
    samples: tuple[str, ...] = ()
    weights_from: str
    created: str
    commit: str
    versions: dict[str, str]
    # precision -> file, best first; the reader loads the first that it can run
    models: dict[Precision, str] = Field(min_length=1)
    # file -> sha256; labels.txt lies one folder up, the rest beside the manifest
    files: dict[str, str]
    parity: tuple[Parity, ...]
    engines: tuple[Engine, ...] = ()
    evaluation: Evaluation | None = None
    macs: int = Field(ge=0)
    params: int = Field(ge=0)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return check_name(name)

    @field_validator("files")
    @classmethod
    def _plain_files(cls, files: dict[str, str]) -> dict[str, str]:
        for file in files:
            check_name(file)
        return files

    @model_validator(mode="after")
    def _fits_its_task(self) -> Self:
        needed = "preprocessing" if self.task == "classification" else "tiling"
        if getattr(self, needed) is None:
            raise ValueError(f"a manifest for {self.task} needs {needed}")
        unlisted = [name for name in self.samples if name not in self.files]
        if unlisted:
            raise ValueError(f"samples {', '.join(unlisted)} have no sha256")
        nameless = [engine.file for engine in self.engines if engine.file not in self.files]
        if nameless:
            raise ValueError(f"engines {', '.join(nameless)} have no sha256")
        return self

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def is_name(name: str) -> bool:
    """Whether ``name`` may name a model or a file of one."""
    return bool(_NAME.fullmatch(name))


def check_name(name: str) -> str:
    """Returns ``name`` if it may name a model or a file of one.

    Raises:
        ValueError: it could leave its folder, or would not survive as a URL segment.
    """
    if not is_name(name):
        raise ValueError(
            f"{name!r} cannot name a model or file: use 1 to 128 letters, digits, '.', '_' or '-', "
            "and let the first be a letter or digit"
        )
    return name
